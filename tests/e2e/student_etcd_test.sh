#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The student example in a real etcd: its key has a lease as long as the TTL;
# a killed instance is gone when that has passed, and is not called after it.
. "$(dirname "$0")/student.sh"
need etcd etcdctl curl

start_etcd
flags=(--registry=etcd "--registry_address=127.0.0.1:$etcd_port")
export ETCDCTL_API=3
ctl() { etcdctl --endpoints="127.0.0.1:$etcd_port" "$@"; }
has_key() { [ -n "$(ctl get --keys-only "/micro/registry/student/$1")" ]; }
no_key() {
	local keys
	keys=$(ctl get --keys-only "/micro/registry/student/$1") &&
		[ -z "$keys" ]
}
# lease_of ID: the seconds its key's lease was granted for
lease_of() {
	local lease
	lease=$(ctl get "/micro/registry/student/$1" -w json |
		sed -n 's/.*"lease":\([0-9]*\).*/\1/p')
	ctl lease timetolive "$(printf %x "$lease")" |
		sed -n 's/.*granted with TTL(\([0-9]*\)s).*/\1/p'
}

times=(--registry_ttl=10 --registry_interval=5)
port=$("$root/tools/free-port")
start first "$bin/student" "${flags[@]}" "${times[@]}" --id=student-1 \
	--address=127.0.0.1:0
start_second() {
	start second "$bin/student" "${flags[@]}" "${times[@]}" --id=student-2 \
		--address="127.0.0.1:$port"
	second=$!
	disown $second
}
start_second
# The one whose code names etcd and the ttl.
start third "$bin/student_etcd" "${flags[1]}" --id=student-3 \
	--address=127.0.0.1:0
for id in student-1 student-2 student-3; do
	within 20 has_key $id
	granted=$(lease_of $id)
	[ "$granted" = 10 ] || failed "the lease of $id is '$granted' s"
done

start client "$bin/student_client" "${flags[@]}" --json --progress \
	--rounds=0 --rate=200
client=$!
within 20 has_done 100

# A busy machine is late at times; a lease that is too long is so each time.
for try in 1 2 3; do
	kill -KILL $second
	killed_ms=$(now_ms)
	within 20 no_key student-2
	took_ms=$(($(now_ms) - killed_ms))
	[ $took_ms -gt 11000 ] && [ $try -lt 3 ] || break
	start_second
	within 20 has_key student-2
done
[ $took_ms -le 11000 ] || failed "the key was gone after $took_ms ms"
has_key student-1 || failed "the key of a living instance is gone"

# Whoever still called the old address would now be answered by another one.
start ghost "$bin/student" --registry=memory --id=ghost \
	--address="127.0.0.1:$port"
within 20 listening "$port"
within 20 has_done $(($(students_done) + 200))
kill -TERM $client
ended $client 20 || failed "the client ended with $?"
report=$(tail -n 1 "$work/client.out")
[ "$(number failed "$report")" = 0 ] || failed "$report"
[ "$(number student-2 "$report")" -gt 0 ] || failed "$report"
[[ $report != *'"ghost"'* ]] || failed "called after it was gone: $report"
echo "gone after $took_ms ms: fine"
