#!/usr/bin/env bash
# usage: NAME=vdm PROJECT=p ZONE=z launch/tpu_vm.sh up --config FILE --workdir DIR [--OPTION VALUE ...]
#        ... launch/tpu_vm.sh keep --config FILE --workdir DIR [--OPTION VALUE ...]
#        ... launch/tpu_vm.sh state | logs | stop | delete
#
# A training on a TPU v5e or v6e slice of the Cloud TPU API, through a queued resource.
#
#   up       ask for the slice unless there is one, wait for it, start the training on every host
#            unless it runs there; a slice that was preempted or failed is asked for anew
#   keep     `up` again and again until the training has ended
#   state    of the slice, and of the training on each host
#   logs     follow the output of host 0
#   stop     SIGTERM on every host: a checkpoint is saved; the slice stays, and costs
#   delete   the slice
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
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"
checkout=$(cd "$here/.." && pwd)

PROJECT=${PROJECT:-}
ZONE=${ZONE:-}
NAME=${NAME:-vdm}
ACCELERATOR=${ACCELERATOR:-v6e-8}
SPOT=${SPOT:-yes}
PREPARE=${PREPARE:-}
PATIENCE=${PATIENCE:-3600}
PAUSE=${PAUSE:-30}

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

# Until the slice is there; what was preempted or failed makes room for a new one.
ready() {
    local state deadline=$((SECONDS + PATIENCE))
    while true; do
        state=$(slice_state)
        case $state in
        ACTIVE) return ;;
        ABSENT)
            create
            ((dry_run)) && return
            ;;
        SUSPENDED | FAILED)
            echo "$NAME is $state; it is asked for anew" >&2
            remove
            ;;
        *) ((SECONDS < deadline)) || unavailable "$NAME is $state after $PATIENCE s; try again later" ;;
        esac
        [[ $state == ABSENT || $state == SUSPENDED || $state == FAILED ]] || sleep "$PAUSE"
    done
}

on_hosts() { tpus tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"; }

start() {
    scratch
    pack "$checkout" "$folder/vdm.tgz"
    tpus tpu-vm scp "$folder/vdm.tgz" "$NAME:" --worker=all
    on_hosts all "$(on_host start "$@" --processes auto)"
}

up() {
    ready
    start "$@"
}

# The words of one host: running, ended CODE, none; empty where it is out of reach.
training_state() { on_hosts 0 "bash vdm/launch/_host.sh state" || true; }

keep() {
    local state code
    ((dry_run)) && up "$@" && return
    while true; do
        code=0
        bash "$0" up "$@" || code=$?
        ((code != 2)) || exit 2
        while true; do
            sleep "$PAUSE"
            [[ $(slice_state) == ACTIVE ]] || break
            state=$(training_state)
            case $state in
            running | "") ;;
            "ended 75" | none) break ;;
            *) echo "$state" && exit "${state#ended }" ;;
            esac
        done
    done
}

remove() { tpus queued-resources delete "$NAME" --force; }

delete() {
    local state
    state=$(slice_state)
    [[ $state == ABSENT && $dry_run == 0 ]] || remove
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
stop) on_hosts all "bash vdm/launch/_host.sh stop" ;;
delete) delete ;;
*) refuse "$verb is none of up, keep, state, logs, stop, delete" ;;
esac
