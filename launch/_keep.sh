# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # what it shares with tpu_vm.sh, which sources it
# `keep` of tpu_vm.sh: looks, starts what ended, asks for what was taken.

deleted() { refuse "$NAME was deleted meanwhile; it is not asked for anew"; }

# A step that may fail: its code is in `code`. In a condition, `set -e` would not hold for it.
try() {
    set +e
    (set -e && "$@")
    code=$?
    set -e
}

# Until the training must be started again; ends where it did.
watch() {
    local state
    while true; do
        sleep "$PAUSE"
        state=$(slice_state) || continue
        case $state in
        ACTIVE) state=$(training_state) ;;
        ABSENT) deleted ;;
        SUSPENDED | FAILED) return ;;
        *) continue ;;
        esac
        case $state in
        running) failures=0 ;;
        "") ;;
        "ended 75" | none) return ;;
        stopped) stays && unavailable "$NAME was stopped; the same command goes on" ;;
        *) echo "$state" && stays && exit "${state#ended }" ;;
        esac
    done
}

keep() {
    local code state failures=0 verb=start
    ((dry_run)) && up "$@" && return
    while true; do
        ((failures < TRIES)) || { stays && unavailable "the training did not run in $TRIES starts"; }
        failures=$((failures + 1))
        try ready
        ((code != 2)) || exit 2
        if ((code == 0)); then
            absent=theirs
            try launch "$verb" "$@"
        else
            state=$(slice_state) || state=ABSENT
            [[ $state == ABSENT ]] || absent=theirs
        fi
        if ((code == 0)); then
            verb=resume
            watch
        else
            sleep "$PAUSE"
        fi
    done
}
