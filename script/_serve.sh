# Sourced by script/demo: starts the example server and sees that it ends.
# shellcheck shell=bash

server_pid=
server_url=
server_log=

# Ends the server as an operator would; returns its exit status. It drains for 30 s at most: later than that it is killed.
stop_server() {
    local pid=$server_pid status=0
    server_pid=
    if [[ -n $pid ]]; then
        kill -TERM "$pid" 2>/dev/null || true
        timeout 40 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" || status=$?
    fi
    rm -f "$server_log"
    return "$status"
}

# Serves examples/row_stats.py on a free port and sets server_url once it is ready. A server that ends at once, or isn't
# ready in half a minute, ends the script with its log.
start_server() {
    server_log=$(mktemp)
    trap 'stop_server || true' EXIT
    .venv/bin/python -m fastpredict serve examples/row_stats.py:app --port 0 >"$server_log" 2>&1 &
    server_pid=$!
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        server_url=$(grep -om 1 'http://127\.0\.0\.1:[0-9]*' "$server_log" || true)
        if [[ -n $server_url ]] && is_ready "${server_url##*:}"; then
            return
        fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    printf 'the server did not start:\n' >&2
    cat "$server_log" >&2
    exit 1
}

# bash's own TCP, so that a fresh machine needs no curl
is_ready() (
    exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
    read -r -t 5 line <&3
    [[ $line == *' 200 '* ]]
)
