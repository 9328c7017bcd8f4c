# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For the tests of the student example, which read this first: programs with
# logs, waiting for what they do, real servers. Everything started is ended,
# by its pid, whatever happens.
set -euo pipefail
root=$SVC_SOURCE_DIR
bin=$SVC_BUILD_DIR/bin
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$root/build/consul/usr/bin
for variable in ${!SVC_@} ${!MICRO_@}; do
	[ "$variable" = SVC_PLUGIN_PATH ] || unset "$variable"
done
# shellcheck disable=SC2034
roster=$root/examples/student/roster.jsonl

work=$(mktemp -d)
pids=()
cleanup() {
	local status=$? pid
	if [ $status != 0 ] && [ $status != 77 ]; then
		for log in "$work"/*.log "$work"/*.out; do
			[ ! -s "$log" ] || {
				echo "--- ${log##*/}"
				tail -n 40 "$log"
			}
		done
	fi
	for pid in "${pids[@]}"; do
		kill -KILL "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

# need PROGRAM...: the test is skipped where one is missing.
need() {
	local program
	for program; do
		command -v "$program" >/dev/null || {
			echo "skipped: $program is not installed"
			exit 77
		}
	done
}

failed() {
	echo "FAILED at line ${BASH_LINENO[0]}: $*"
	exit 1
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# start NAME COMMAND...: in the background; pid in $!, output in NAME.out and
# NAME.log.
start() {
	local name=$1
	shift
	# Nobody is to read what one of the same name had said before.
	rm -f "$work/$name.out" "$work/$name.log"
	: >"$work/$name.out" && : >"$work/$name.log"
	"$@" >"$work/$name.out" 2>"$work/$name.log" </dev/null &
	pids+=($!)
}

# within SECONDS COMMAND...: until it succeeds.
within() {
	local until=$((SECONDS + $1))
	shift
	until "$@" >"$work/within" 2>&1; do
		if [ $SECONDS -ge $until ]; then
			cat "$work/within"
			echo "FAILED at line ${BASH_LINENO[0]}: not in time: $*"
			exit 1
		fi
		sleep 0.05
	done
}

# ended PID SECONDS: waits for it, and gives its exit status.
ended() {
	local until=$((SECONDS + $2))
	while kill -0 "$1" 2>/dev/null; do
		[ $SECONDS -lt $until ] || failed "process $1 does not end"
		sleep 0.02
	done
	wait "$1"
}

# discoverable NAME TEXT FLAG...: the record of the service holds the text.
discoverable() {
	local name=$1 text=$2 answer
	shift 2
	answer=$("$bin/svc" get "$name" --json "$@") &&
		[[ $answer == *"$text"* ]]
}

# number KEY JSON
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" <<<"$2"; }

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# students_done: how many a client with --progress has been through.
students_done() { grep -c '^{"students"' "$work/client.out" || true; }
has_done() { [ "$(students_done)" -ge "$1" ]; }

# start_etcd: on free ports the first time, on the same later; $etcd is the pid
# and $etcd_port where it listens.
etcd_port=''
start_etcd() {
	local client peer
	for _ in 1 2 3; do
		if [ -z "$etcd_port" ]; then
			{ read -r etcd_port; read -r etcd_peer; } \
				< <("$root/tools/free-port" 2)
		fi
		client=http://127.0.0.1:$etcd_port
		peer=http://127.0.0.1:$etcd_peer
		start etcd etcd --name n1 --data-dir "$work/etcd" \
			--listen-client-urls "$client" \
			--advertise-client-urls "$client" \
			--listen-peer-urls "$peer" \
			--initial-advertise-peer-urls "$peer" \
			--initial-cluster "n1=$peer" --unsafe-no-fsync
		etcd=$!
		while kill -0 $etcd 2>/dev/null; do
			! curl -fsS -m 1 "$client/health" >/dev/null 2>&1 ||
				return 0
			sleep 0.05
		done
		etcd_port=
	done
	failed "etcd does not start"
}
