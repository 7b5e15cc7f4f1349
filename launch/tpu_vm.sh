#!/usr/bin/env bash
# usage: NAME=vdm PROJECT=p ZONE=z launch/tpu_vm.sh up --config FILE --workdir DIR [--OPTION VALUE ...]
#        ... launch/tpu_vm.sh keep --config FILE --workdir DIR [--OPTION VALUE ...]
#        ... launch/tpu_vm.sh state | logs | stop | delete
#
# A training on a TPU v5e or v6e slice of the Cloud TPU API, through a queued resource.
#
#   up       ask for the slice unless there is one, wait for it, start the training on every host
#            unless it runs there; a slice that was preempted or failed is asked for anew
#   keep     `up` again and again until the training has ended, was stopped, or the slice deleted
#   state    of the slice, and of the training on each host
#   logs     follow the output of host 0
#   stop     SIGTERM on every host: a checkpoint is saved; the slice stays, and costs
#   delete   the slice, or the request for it
#   --dry-run, --help
#
# Environment:
#   PROJECT, ZONE      of Google Cloud, e.g. my-project, us-central1-a
#   NAME               of the slice (default: vdm)
#   ACCELERATOR        v5litepod-CHIPS or v6e-CHIPS (default: v6e-8)
#   RUNTIME            the software of the machines (default: what fits ACCELERATOR)
#   SPOT               yes: cheaper, may be taken away at any time; no (default: yes)
#   PREPARE            a shell command for every host that mounts the storage of --workdir; it is
#                      run before each start
#   PATIENCE, PAUSE    seconds to wait for the slice (default: 3600), between looks (default: 30)
#   TRIES              starts after which `keep` gives up where none of them ran (default: 10)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"
# shellcheck source=launch/_keep.sh
source "$here/_keep.sh"
checkout=$(cd "$here/.." && pwd)

PROJECT=${PROJECT:-}
ZONE=${ZONE:-}
NAME=${NAME:-vdm}
ACCELERATOR=${ACCELERATOR:-v6e-8}
SPOT=${SPOT:-yes}
PREPARE=${PREPARE:-}
PATIENCE=${PATIENCE:-3600}
PAUSE=${PAUSE:-30}
TRIES=${TRIES:-10}
absent=mine # who saw to it that there is no slice: mine, or theirs

tpus() {
    call gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE" --quiet
}

# ABSENT where there is none.
slice_state() {
    ((dry_run)) && echo ABSENT && return
    local found
    found=$(gcloud compute tpus queued-resources list "--project=$PROJECT" "--zone=$ZONE" \
        "--filter=name~/$NAME\$" "--format=value(state.state)") || exit 75
    echo "${found:-ABSENT}"
}

create() {
    local spot=()
    [[ $SPOT == no ]] || spot=(--spot)
    tpus queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$ACCELERATOR" \
        "--runtime-version=$RUNTIME" "${spot[@]}"
}

# Refuse a slice that was asked for with other settings.
check_slice() {
    local found tier=no
    found=$(gcloud compute tpus queued-resources describe "$NAME" "--project=$PROJECT" \
        "--zone=$ZONE" --format=json) || exit 75
    [[ ! $found =~ \"spot\":\ *(\{|true) ]] || tier=yes
    [[ $found =~ \"acceleratorType\":\ *\"$ACCELERATOR\" && $tier == "$SPOT" ]] || refuse \
        "there is another $NAME, not ACCELERATOR=$ACCELERATOR SPOT=$SPOT; delete it, or say NAME"
}

# Until the slice is there; what was preempted or failed makes room for a new one.
ready() {
    local state checked=no deadline=$((SECONDS + PATIENCE))
    while true; do
        state=$(slice_state)
        case $state in
        ABSENT)
            [[ $absent == mine ]] || deleted
            create
            ((dry_run)) && return
            absent=theirs checked=yes
            sleep "$PAUSE"
            continue
            ;;
        SUSPENDED | FAILED)
            ((SECONDS < deadline)) || unavailable "$NAME is $state after $PATIENCE s"
            echo "$NAME is $state; it is asked for anew" >&2
            remove
            absent=mine
            continue
            ;;
        DELETING) ;;
        *)
            [[ $checked == yes ]] || check_slice
            absent=theirs checked=yes
            ;;
        esac
        [[ $state != ACTIVE ]] || return 0
        ((SECONDS < deadline)) || { stays && unavailable "$NAME is $state after $PATIENCE s"; }
        sleep "$PAUSE"
    done
}

on_hosts() { tpus tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"; }

# Copy the checkout, and let _host.sh do this on every host: start or resume, and the training.
launch() {
    scratch
    pack "$checkout" "$folder/vdm.tgz"
    tpus tpu-vm scp "$folder/vdm.tgz" "$NAME:" --worker=all
    on_hosts all "$(on_host "$@" --processes auto)"
}

up() {
    ready
    launch start "$@"
}

# The words of one host: running, stopped, ended CODE, none; empty where it is out of reach.
training_state() { on_hosts 0 "bash vdm/launch/_host.sh state" || true; }

remove() { tpus queued-resources delete "$NAME" --force; }

delete() {
    local state
    state=$(slice_state)
    if [[ $state == ABSENT && $dry_run == 0 ]]; then
        echo "no $NAME in $ZONE" >&2
    else
        remove
    fi
}

state() {
    local state
    state=$(slice_state)
    echo "$state"
    [[ $state != ACTIVE ]] || on_hosts all "bash vdm/launch/_host.sh state"
}

take_common_options "$@"
set -- "${rest[@]}"
verb=${1:-}
[[ -n $verb ]] || { usage && exit; }
need PROJECT my-project
need ZONE us-central1-a
form NAME '^[a-z]([-a-z0-9]*[a-z0-9])?$' "small letters, digits and -"
form ACCELERATOR '^(v5litepod|v6e)-[1-9][0-9]*$' "v5litepod-8, v6e-8 or the like"
form SPOT '^(yes|no)$' "yes or no"
form TRIES '^[1-9][0-9]*$' "how many starts"
case $ACCELERATOR in
v5litepod-*) RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} ;;
*) RUNTIME=${RUNTIME:-v2-alpha-tpuv6e} ;;
esac
program gcloud
case $verb in
up | keep)
    check_training "$checkout" "${@:2}"
    "$verb" "${@:2}"
    ;;
state) state ;;
logs) on_hosts 0 "bash vdm/launch/_host.sh log" ;;
stop) on_hosts all "bash vdm/launch/_host.sh stop" && stays ;;
delete) delete ;;
*) refuse "$verb is none of up, keep, state, logs, stop, delete" ;;
esac
