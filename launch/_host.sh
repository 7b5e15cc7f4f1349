#!/usr/bin/env bash
# usage: launch/_host.sh start --config FILE --workdir DIR [--OPTION VALUE ...]
#        launch/_host.sh state | log | stop
#
# A training on a machine that was entered by ssh: goes on when the connection ends.
#
#   start    run _entry.sh in the background, unless it runs; its output goes to ~/vdm.log
#   state    print "running", "ended CODE" or "none"
#   log      follow the output
#   stop     SIGTERM: saves, then ends
#   --help   this
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/_common.sh
source "$here/_common.sh"
pid_file=$HOME/vdm.pid
code_file=$HOME/vdm.code
log_file=$HOME/vdm.log

running() {
    [[ -f $pid_file ]] && grep -qs _entry.sh "/proc/$(< "$pid_file")/cmdline"
}

start() {
    if running; then
        echo "runs already"
        return
    fi
    rm -f "$code_file"
    # The trap keeps this shell until the code is written; programs that it starts do not inherit it.
    # shellcheck disable=SC2016
    setsid bash -c 'trap : TERM; bash "$1" "${@:3}"; echo $? > "$2"' \
        bash "$here/_entry.sh" "$code_file" "$@" >> "$log_file" 2>&1 < /dev/null &
    echo $! > "$pid_file"
    echo "started"
}

state() {
    if running; then
        echo running
    elif [[ -f $code_file ]]; then
        echo "ended $(< "$code_file")"
    else
        echo none
    fi
}

stop() {
    running || return 0
    kill -TERM -- "-$(< "$pid_file")"
    while running; do sleep 0.2; done
}

verb=${1:-}
case $verb in
start) start "${@:2}" ;;
state) state ;;
log) tail -n 100 -F "$log_file" ;;
stop) stop ;;
--help | -h | "") usage ;;
*) refuse "$verb is none of start, state, log, stop" ;;
esac
