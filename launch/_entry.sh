#!/usr/bin/env bash
# usage: launch/_entry.sh --config FILE[:FUNCTION] --workdir DIR [--OPTION VALUE ...]
#
# What every launcher runs on every host: installs the checkout once, then trains under a supervisor.
# Run again it installs nothing twice and goes on from the last checkpoint. SIGTERM saves first.
#
#   --workdir DIR      the run directory, on storage that outlives the machine and that all hosts see
#                      (where a path is relative, it is to the checkout)
#   other options      those of `python -m vdm_jax.train`
#   --dry-run          print the commands and do nothing
#   --help             this
#
# Environment:
#   VDM_JAX_EXTRA      tpu, cuda or none (default: what the hardware is); more after commas,
#                      e.g. cuda,curate
#   VDM_JAX_PYTHON     an interpreter that has vdm_jax (Docker images say so): nothing is installed
#   VDM_JAX_TRIES      how often an installation may fail (default: 3); seconds between them:
#   VDM_JAX_PAUSE      (default: 30)
#   VDM_JAX_HOME       where the virtual environment lies (default: ~/.cache/vdm_jax/launch)
#   JAX_COMPILATION_CACHE_DIR  compiled programs (default: .xla beside the run directory)
#
# Exit code: 0 finished, 2 refused, 75 stopped before the last step or unavailable for now (the same
# command goes on), 78 could not be installed, else failed. 78 is more than 75, as srun answers with
# the highest code of its tasks, some of which it may have stopped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"

home=${VDM_JAX_HOME:-${HOME:-/tmp}/.cache/vdm_jax/launch}

# The extra that fits the devices of this machine.
hardware() {
    if compgen -G "${VDM_JAX_DEVICES:-/dev}/accel[0-9]*" > /dev/null ||
        compgen -G "${VDM_JAX_DEVICES:-/dev}/vfio/[0-9]*" > /dev/null; then
        echo tpu
    elif compgen -G "${VDM_JAX_DEVICES:-/dev}/nvidia[0-9]*" > /dev/null; then
        echo cuda
    else
        echo none
    fi
}

# The value of an option, whether it is written "--x VALUE" or "--x=VALUE".
value_of() {
    local name=$1
    shift
    while (($#)); do
        case $1 in
        "$name") echo "${2:-}" && return ;;
        "$name="*) echo "${1#*=}" && return ;;
        esac
        shift
    done
}

# uv brings a Python where that of the machine is older than 3.11, as it is on TPU VMs.
find_uv() {
    PATH="$PATH:$home/uv/bin"
    command -v uv > /dev/null && return
    python3 -m pip install --quiet --disable-pip-version-check --target "$home/uv" uv ||
        unavailable "uv could not be installed; install it (https://docs.astral.sh/uv) or pip for python3"
}

install() {
    local wanted=$1
    mkdir -p "$home"
    exec 9> "$home/lock"
    flock 9 # hosts and tasks that share a home take turns
    if [[ -f $home/installed && $(< "$home/installed") == "$wanted" ]]; then return; fi
    find_uv
    rm -f "$home/installed"
    uv venv --quiet --allow-existing --python ">=3.11,<3.14" "$home/venv" ||
        unavailable "no Python from 3.11 on was found or could be fetched"
    uv pip install --quiet --python "$home/venv/bin/python" --editable "$here/..$extras" ||
        unavailable "vdm_jax could not be installed into $home/venv"
    echo "$wanted" > "$home/installed"
}

# A signal ends the installation, which bash would wait for otherwise.
install_or_stop() {
    local child failures=0
    trap 'kill -TERM "$child" 2> /dev/null; exit 75' TERM INT
    while true; do
        install "$1" &
        child=$!
        wait "$child" && break
        failures=$((failures + 1))
        ((failures < ${VDM_JAX_TRIES:-3})) || exit 78
        sleep "${VDM_JAX_PAUSE:-30}" &
        child=$!
        wait "$child"
    done
    trap - TERM INT
}

take_common_options "$@"
set -- "${rest[@]}"
extra=${VDM_JAX_EXTRA:-$(hardware)}
config=$(value_of --config "$@")
workdir=$(value_of --workdir "$@")
[[ -n $config ]] || refuse "--config is missing, e.g. --config configs/quickstart.py"
[[ -n $workdir ]] || refuse "--workdir is missing; give a directory that outlives this machine"
[[ $workdir != *://* ]] || refuse "--workdir $workdir is no path; mount the bucket and give the path"
[[ $extra =~ ^(tpu|cuda|none)(,[a-z]+)*$ ]] ||
    refuse "VDM_JAX_EXTRA=$extra; say tpu, cuda or none, and more after commas, e.g. cuda,curate"
extras=${extra#none}
extras=${extras#,}
extras=${extras:+[$extras]}
python=${VDM_JAX_PYTHON:-$home/venv/bin/python}
[[ -z ${VDM_JAX_PYTHON:-} ]] || command -v "$python" > /dev/null ||
    refuse "VDM_JAX_PYTHON=$python is no program"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(dirname "$workdir")/.xla}
train=("$python" -m vdm_jax.train --supervise --stopped-code 75 "$@")

if ((dry_run)); then
    [[ -n ${VDM_JAX_PYTHON:-} ]] || show uv pip install --editable "$here/..$extras"
    show env "JAX_COMPILATION_CACHE_DIR=$JAX_COMPILATION_CACHE_DIR" "${train[@]}"
    exit
fi
cd "$here/.."
if [[ -z ${VDM_JAX_PYTHON:-} ]]; then
    install_or_stop "$here $extras $(cksum < pyproject.toml)"
fi
exec "${train[@]}"
