#!/usr/bin/env bash
# usage: NAME=vdm PROJECT=p ZONE=z launch/compute_engine_mig.sh up --config FILE --workdir DIR [...]
#        ... launch/compute_engine_mig.sh state | logs | stop | delete
#
# A training on machines of Compute Engine that a managed instance group keeps: TPU7x and what
# follows it (also v6e, v5p), or GPUs.
#
#   up       make the group unless there is one, wait for its machines, start the training on each
#            unless it runs there; after a preemption the group brings GPU machines anew, and `up`
#            starts the training on them; of a TPU slice, `delete` and `up`
#   state    of the machines, and of the training on each
#   logs     follow the output of the first machine
#   stop     SIGTERM on every machine: a checkpoint is saved; the machines stay, and cost
#   delete   the group, its template and its policy
#   --dry-run, --help
#
# Environment:
#   PROJECT, ZONE      of Google Cloud, e.g. my-project, us-central1-c
#   NAME               of the group (default: vdm)
#   MACHINE            e.g. tpu7x-standard-4t, ct6e-standard-4t, a3-highgpu-8g
#   SIZE               how many machines (default: 1)
#   TOPOLOGY           of a TPU slice of several machines, e.g. 2x2x2, 4x4; empty for GPUs
#   IMAGE_FAMILY, IMAGE_PROJECT   the system of the machines; for GPUs one with NVIDIA's driver
#   DISK               GB of each machine (default: 200)
#   SPOT               yes: cheaper, may be taken away at any time; no (default: yes)
#   PREPARE            a shell command for every machine that mounts the storage of --workdir; it
#                      is run before each start
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"
checkout=$(cd "$here/.." && pwd)

PROJECT=${PROJECT:-}
ZONE=${ZONE:-}
NAME=${NAME:-vdm}
MACHINE=${MACHINE:-}
SIZE=${SIZE:-1}
TOPOLOGY=${TOPOLOGY:-}
IMAGE_FAMILY=${IMAGE_FAMILY:-}
IMAGE_PROJECT=${IMAGE_PROJECT:-}
DISK=${DISK:-200}
SPOT=${SPOT:-yes}
PREPARE=${PREPARE:-}
PORT=8476 # of the first machine, where the others meet

compute() { call gcloud compute "$@" "--project=$PROJECT" --quiet; }

# Whether there is such a thing already, in this place.
exists() {
    ((dry_run)) && return 1
    local found place=
    case $1 in
    instance-groups) place=" AND zone~/$ZONE\$" ;;
    resource-policies) place=" AND region~/$region\$" ;;
    esac
    found=$(gcloud compute "$1" list "--project=$PROJECT" "--filter=name=$NAME$place" \
        "--format=value(name)") || exit 75
    [[ -n $found ]]
}

# Refuse what was made with another setting: a kind, its field, what it should hold, its place.
same() {
    local found
    # shellcheck disable=SC2086 # a kind may be two words
    found=$(gcloud compute $1 describe "$NAME" "--project=$PROJECT" "${@:4}" \
        "--format=value($2)") || exit 75
    [[ $found == "$3" ]] ||
        refuse "there is another $NAME, whose $2 is $found and not $3; delete it, or say NAME"
}

policy() { echo "projects/$PROJECT/regions/$region/resourcePolicies/$NAME"; }

create() {
    local slice=() kind=STANDARD taken=()
    [[ $SPOT == no ]] || kind=SPOT taken=(--instance-termination-action=STOP)
    if [[ -n $TOPOLOGY ]]; then
        slice=("--workload-policy=$(policy)" --target-size-policy-mode=bulk
            --default-action-on-vm-failure=do-nothing)
        if exists resource-policies; then
            same resource-policies workloadPolicy.acceleratorTopology "$TOPOLOGY" "--region=$region"
        else
            compute resource-policies create workload-policy "$NAME" "--region=$region" \
                --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY" \
                --accelerator-topology-mode=AUTO_CONNECT
        fi
    fi
    if exists instance-templates; then
        same instance-templates properties.machineType "$MACHINE"
        same instance-templates properties.scheduling.provisioningModel "$kind"
    else
        compute instance-templates create "$NAME" "--machine-type=$MACHINE" \
            "--image-family=$IMAGE_FAMILY" "--image-project=$IMAGE_PROJECT" \
            "--boot-disk-size=${DISK}GB" --maintenance-policy=TERMINATE \
            "--provisioning-model=$kind" "${taken[@]}" \
            --scopes=https://www.googleapis.com/auth/cloud-platform
    fi
    if exists instance-groups; then
        same "instance-groups managed" targetSize "$SIZE" "--zone=$ZONE"
    else
        compute instance-groups managed create "$NAME" "--zone=$ZONE" "--size=$SIZE" \
            "--template=$NAME" "${slice[@]}"
    fi
}

# The names of the machines, in the same order each time.
machines() {
    if ((dry_run)); then
        seq -f "$NAME-%g" 0 $((SIZE - 1))
    else
        gcloud compute instance-groups managed list-instances "$NAME" "--project=$PROJECT" \
            "--zone=$ZONE" "--format=value(instance.basename())" | sort
    fi
}

on_machine() { compute ssh "$1" "--zone=$ZONE" "--command=$2"; }

# How machine INDEX finds the others: TPUs of a slice know, GPUs are numbered.
place() {
    if [[ -n $TOPOLOGY ]]; then
        echo "--processes auto"
    elif ((SIZE > 1)); then
        echo "--processes $SIZE --process $1 --coordinator $2:$PORT"
    fi
}

up() {
    local names index=0 name words
    create
    compute instance-groups managed wait-until "$NAME" --stable "--zone=$ZONE" --timeout=3600 ||
        { stays && unavailable "$NAME has not all its machines; try again later"; }
    scratch
    pack "$checkout" "$folder/vdm.tgz"
    mapfile -t names < <(machines)
    ((${#names[@]} == SIZE)) ||
        { stays && unavailable "$NAME has ${#names[@]} of $SIZE machines; try again later"; }
    for name in "${names[@]}"; do
        read -ra words <<< "$(place "$index" "${names[0]}")"
        compute scp "$folder/vdm.tgz" "$name:" "--zone=$ZONE"
        on_machine "$name" "$(on_host start "$@" "${words[@]}")"
        index=$((index + 1))
    done
    stays
}

on_all() {
    local name
    for name in $(machines); do
        echo "$name"
        on_machine "$name" "$1" || echo "out of reach"
    done
}

delete() {
    if ((dry_run)) || exists instance-groups; then
        compute instance-groups managed delete "$NAME" "--zone=$ZONE"
    fi
    if ((dry_run)) || exists instance-templates; then
        compute instance-templates delete "$NAME"
    fi
    if ((dry_run)) || exists resource-policies; then
        compute resource-policies delete "$NAME" "--region=$region"
    fi
}

take_common_options "$@"
set -- "${rest[@]}"
verb=${1:-}
[[ -n $verb ]] || { usage && exit; }
need PROJECT my-project
need ZONE us-central1-c
form NAME '^[a-z]([-a-z0-9]*[a-z0-9])?$' "small letters, digits and -"
form SIZE '^[1-9][0-9]*$' "how many machines"
form SPOT '^(yes|no)$' "yes or no"
form TOPOLOGY '^([1-9][0-9]*(x[1-9][0-9]*){1,2})?$' "2x4, 2x2x2 or the like"
region=${ZONE%-*}
program gcloud
case $verb in
up)
    need MACHINE tpu7x-standard-4t
    need IMAGE_FAMILY ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e
    need IMAGE_PROJECT ubuntu-os-accelerator-images
    check_training "$checkout" "${@:2}"
    up "${@:2}"
    ;;
state) on_all "bash vdm/launch/_host.sh state" ;;
logs) on_machine "$(machines | head -n 1)" "bash vdm/launch/_host.sh log" ;;
stop) on_all "bash vdm/launch/_host.sh stop" && stays ;;
delete) delete ;;
*) refuse "$verb is none of up, state, logs, stop, delete" ;;
esac
