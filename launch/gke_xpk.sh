#!/usr/bin/env bash
# usage: PROJECT=p ZONE=z CLUSTER=c IMAGE=i launch/gke_xpk.sh up --config FILE --workdir DIR [...]
#        ... launch/gke_xpk.sh state | logs | stop | delete
#
# A training on TPU slices of a GKE cluster, as a JobSet that xpk writes (`pip install xpk`). The
# cluster is made once, by `xpk cluster create`; see launch/README.md.
#
#   up       create the workload, unless there is one; one that failed or completed is made anew,
#            and goes on from its last checkpoint
#   state    of the JobSet and its pods
#   logs     follow the output of the first pod
#   stop     delete the workload: SIGTERM, a checkpoint is saved; the cluster stays, and costs
#   delete   the same
#   --dry-run, --help
#
# Environment:
#   PROJECT, ZONE, CLUSTER   of Google Cloud, e.g. my-project, us-east5-b, my-cluster
#   IMAGE              made of launch/Dockerfile.tpu and pushed where the cluster reads
#   NAME               of the workload (default: vdm)
#   TPU_TYPE           e.g. v5litepod-16, v6e-16, tpu7x-16 (default: v6e-16)
#   SLICES             how many (default: 1)
#   STORAGE            what `xpk storage attach` called the storage of --workdir; several with
#                      commas between
#   RESTARTS           how often it may be started anew (default: 100)
#   GRACE              seconds to save in (default: 300; Google gives spot machines less)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"
checkout=$(cd "$here/.." && pwd)

PROJECT=${PROJECT:-}
ZONE=${ZONE:-}
CLUSTER=${CLUSTER:-}
IMAGE=${IMAGE:-}
NAME=${NAME:-vdm}
TPU_TYPE=${TPU_TYPE:-v6e-16}
SLICES=${SLICES:-1}
STORAGE=${STORAGE:-}
RESTARTS=${RESTARTS:-100}
GRACE=${GRACE:-300}
LABEL="jobset.sigs.k8s.io/jobset-name=$NAME"

workload() {
    call xpk workload "$1" --workload "$NAME" --cluster "$CLUSTER" --project "$PROJECT" \
        --zone "$ZONE" "${@:2}"
}

# Where kubectl asks: this cluster, which xpk makes regional, not the one that was asked last.
connect() {
    local found=$ZONE location=$ZONE
    if ((!dry_run)); then
        found=$(gcloud container clusters list "--project=$PROJECT" "--filter=name=$CLUSTER" \
            "--format=value(location)") || unavailable "gcloud does not tell where $CLUSTER is"
        grep -qx -- "$ZONE" <<< "$found" || location=${ZONE%-*}
        grep -qx -- "$location" <<< "$found" || refuse "no cluster $CLUSTER in $location of $PROJECT"
    fi
    call gcloud container clusters get-credentials "$CLUSTER" "--project=$PROJECT" \
        "--location=$location" --quiet || unavailable "gcloud has no credentials for $CLUSTER"
    context=gke_${PROJECT}_${location}_$CLUSTER
}

# ABSENT, Completed, Failed, or RUNNING.
jobset_state() {
    ((dry_run)) && echo ABSENT && return
    local found
    found=$(kubectl --context "$context" get jobset --ignore-not-found "$NAME" \
        -o 'jsonpath={.metadata.name} {.status.terminalState}') ||
        unavailable "kubectl does not reach $CLUSTER"
    case $found in
    "") echo ABSENT ;;
    *" ") echo RUNNING ;;
    *) echo "${found#* }" ;;
    esac
}

# xpk's shell waits for what it started, which must be the training itself for SIGTERM to reach it.
create() {
    local storage=() names=() command
    IFS=, read -ra names <<< "$STORAGE"
    for command in "${names[@]}"; do storage+=(--storage "$command"); done
    command="exec bash /app/launch/_entry.sh$(printf ' %q' "$@")"
    workload create --tpu-type "$TPU_TYPE" --num-slices "$SLICES" --docker-image "$IMAGE" \
        --max-restarts "$RESTARTS" --restart-on-exit-codes 75 \
        --termination-grace-period-seconds "$GRACE" "${storage[@]}" --command "$command"
}

up() {
    local state
    state=$(jobset_state)
    case $state in
    RUNNING) echo "$NAME runs already" ;;
    ABSENT) create "$@" ;;
    *)
        workload delete --quiet
        create "$@"
        ;;
    esac
}

remove() {
    local state
    state=$(jobset_state)
    [[ $dry_run == 1 || $state != ABSENT ]] || refuse "no $NAME in $CLUSTER; nothing was deleted"
    workload delete --quiet
}

take_common_options "$@"
set -- "${rest[@]}"
verb=${1:-}
[[ -n $verb ]] || { usage && exit; }
need PROJECT my-project
need ZONE us-east5-b
need CLUSTER my-cluster
form NAME '^[a-z]([-a-z0-9]*[a-z0-9])?$' "small letters, digits and -"
form TPU_TYPE '^[a-z0-9]+-[0-9x-]+$' "v6e-16 or the like"
form SLICES '^[1-9][0-9]*$' "how many slices"
form RESTARTS '^[0-9]+$' "how often"
form GRACE '^[1-9][0-9]*$' "seconds"
program xpk
program kubectl
program gcloud
case $verb in
up)
    need IMAGE us-docker.pkg.dev/my-project/vdm/vdm:1
    check_training "$checkout" "${@:2}"
    connect
    up "${@:2}"
    ;;
state) connect && call kubectl --context "$context" get jobset,pods -l "$LABEL" ;;
logs)
    connect
    call kubectl --context "$context" logs -f --tail=100 \
        -l "$LABEL,batch.kubernetes.io/job-completion-index=0"
    ;;
stop | delete) connect && remove ;;
*) refuse "$verb is none of up, state, logs, stop, delete" ;;
esac
