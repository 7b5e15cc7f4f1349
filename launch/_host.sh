#!/usr/bin/env bash
# usage: launch/_host.sh start | resume --config FILE --workdir DIR [--OPTION VALUE ...]
#        launch/_host.sh state | log | stop
#
# A training on a machine that was entered by ssh: goes on when the connection ends.
#
#   start    run _entry.sh in the background, unless it runs; its output goes to ~/vdm.log
#   resume   the same, unless it was stopped
#   state    print "running", "stopped", "ended CODE" or "none"
#   log      follow the output
#   stop     SIGTERM: saves, then ends; it stays so until `start`
#   --help   this
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"
pid_file=$HOME/vdm.pid
code_file=$HOME/vdm.code
stop_file=$HOME/vdm.stopped
log_file=$HOME/vdm.log

running() {
    [[ -f $pid_file ]] && grep -qs _entry.sh "/proc/$(< "$pid_file")/cmdline"
}

start() {
    if running; then
        echo "runs already"
        return
    fi
    rm -f "$code_file" "$stop_file"
    # The trap keeps this shell until the code is written; programs that it starts do not inherit it.
    # shellcheck disable=SC2016
    setsid bash -c 'trap : TERM; bash "$1" "${@:3}"; echo $? > "$2"' \
        bash "$here/_entry.sh" "$code_file" "$@" >> "$log_file" 2>&1 < /dev/null &
    echo $! > "$pid_file"
    echo "started"
}

resume() {
    if [[ -f $stop_file ]]; then
        echo stopped
    else
        start "$@"
    fi
}

state() {
    local code=
    [[ ! -f $code_file ]] || code=$(< "$code_file")
    if running; then
        echo running
    elif [[ -f $stop_file && ${code:-75} == 75 ]]; then
        echo stopped
    elif [[ -n $code ]]; then
        echo "ended $code"
    else
        echo none
    fi
}

stop() {
    touch "$stop_file"
    running || return 0
    kill -TERM -- "-$(< "$pid_file")"
    while running; do sleep 0.2; done
}

verb=${1:-}
case $verb in
start | resume) "$verb" "${@:2}" ;;
state) state ;;
log) tail -n 100 -F "$log_file" ;;
stop) stop ;;
--help | -h | "") usage ;;
*) refuse "$verb is none of start, resume, state, log, stop" ;;
esac
