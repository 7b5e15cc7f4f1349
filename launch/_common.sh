# shellcheck shell=bash
# What the launchers share; they `source` it.

dry_run=0
rest=()

# One line, and the exit code of a refusal.
refuse() {
    echo "error: $*" >&2
    exit 2
}

# As `refuse`, of what may work later.
unavailable() {
    echo "error: $*" >&2
    exit 75
}

# Say that machines are left, as they cost.
stays() { echo "$NAME stays and costs; this ends it: launch/$(basename "$0") delete" >&2; }

# The first comment of the script that was called.
usage() { sed -n '2,/^[^#]/{/^#SBATCH/d;/^#/{s/^# \{0,1\}//;p}}' "$0"; }

# Takes --help and --dry-run out of the arguments, which are then in `rest`.
take_common_options() {
    local argument
    for argument in "$@"; do
        case $argument in
        --help | -h) usage && exit ;;
        --dry-run) dry_run=1 ;;
        *) rest+=("$argument") ;;
        esac
    done
}

# A command as a shell would take it.
show() { printf '%s\n' "$(printf '%q ' "$@")"; }

# Run a command, or show it.
call() {
    if ((dry_run)); then show "$@"; else "$@"; fi
}

# Refuse where a setting is missing: its variable, and an example.
need() {
    [[ -n ${!1:-} ]] || refuse "$1 is missing, e.g. $1=$2"
}

# Refuse where a setting is not of this form: its variable, an expression, what to say.
form() {
    [[ ${!1} =~ $2 ]] || refuse "$1=${!1}; say $3"
}

# Refuse a program that is not installed.
program() {
    ((dry_run)) || command -v "$1" > /dev/null || refuse "$1 is not installed; see launch/README.md"
}

# Refuse arguments of a training that _entry.sh would refuse on every host; $1 is the checkout.
check_training() {
    local checkout=$1
    shift
    VDM_JAX_PYTHON=bash "$checkout/launch/_entry.sh" --dry-run "$@" > /dev/null || exit $?
}

# A folder for files that are gone at the end: `folder`.
scratch() {
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
}

# The checkout as one file, for machines that have none: $1 is the checkout, $2 the file.
pack() {
    call tar -czf "$2" -C "$1" --exclude __pycache__ \
        pyproject.toml README.md LICENSE vdm_jax configs launch
}

# What unpacks it on a machine and calls _host.sh there with these arguments, as one line.
on_host() {
    printf 'mkdir -p vdm && tar -xzf vdm.tgz -C vdm && %sbash vdm/launch/_host.sh' \
        "${PREPARE:+{ $PREPARE; \} && }"
    printf ' %q' "$@"
}
