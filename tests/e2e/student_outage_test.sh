#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# etcd dies for half a minute and comes back empty: no call fails meanwhile, and
# the services are in it again within a TTL.
. "$(dirname "$0")/student.sh"
need etcd curl
outage=30 ttl=10

start_etcd
flags=(--registry=etcd "--registry_address=127.0.0.1:$etcd_port")
serve=("${flags[@]}" --registry_ttl=$ttl --registry_interval=5
	--address=127.0.0.1:0)
start first "$bin/student" "${serve[@]}" --id=student-1
first=$!
start second "$bin/student" "${serve[@]}" --id=student-2
second=$!
start listener "$bin/student_listener" "${serve[@]}"
listener=$!
within 20 discoverable student '"student-1"' "${flags[@]}"
within 20 discoverable student '"student-2"' "${flags[@]}"
within 20 discoverable student-listener go.micro.srv.message "${flags[@]}"

# Its enrolments make the services call the listener.
start client "$bin/student_client" "${flags[@]}" "--registry_ttl=$ttl" \
	--json --progress --rounds=0 --rate=200
client=$!
within 20 has_done 100

kill -KILL $etcd
ended $etcd 10 2>/dev/null || true
before=$(students_done)
sleep $outage # what is being tested
middle=$(students_done)
[ "$middle" -gt $((before + 100 * outage / 2)) ] ||
	failed "$before students done before the outage, $middle at its end"
rm -rf "$work/etcd"
start_etcd
back_ms=$(now_ms)
# The second is no sooner there than the first was seen.
within 20 discoverable student '"student-1"' "${flags[@]}"
within 20 discoverable student '"student-2"' "${flags[@]}"
within 20 discoverable student-listener go.micro.srv.message "${flags[@]}"
took_ms=$(($(now_ms) - back_ms))
[ $took_ms -le $((ttl * 1000)) ] ||
	failed "the services were back after $took_ms ms"

# Beyond the time for which the selector keeps what the registry has lost.
within 60 has_done $(($(students_done) + 100 * (ttl + 6)))
report=$("$bin/student_client" "${flags[@]}" --json) ||
	failed "a new client: $report"
kill -TERM $client
ended $client 20 || failed "the client ended with $?"
report=$(tail -n 1 "$work/client.out")
[ "$(number failed "$report")" = 0 ] || failed "$report"

# A service that ends while etcd hangs cannot leave yet, and says what it is
# about to whoever asks; a file names its address meanwhile.
address=$("$bin/svc" get student --json "${flags[@]}" |
	sed 's/.*"student-1","address":"\([^"]*\)".*/\1/')
printf 'student: %s\n' "$address" >"$work/nodes.yaml"
is_draining() {
	! "$bin/svc" health student --registry=static \
		"--registry_address=$work/nodes.yaml" >"$work/health.out" &&
		grep -q ' draining$' "$work/health.out"
}
kill -STOP $etcd
kill -TERM $first
within 20 is_draining
kill -CONT $etcd
kill -TERM $second $listener
ended $first 20 || failed "student-1 ended with $?"
ended $second 20 || failed "student-2 ended with $?"
ended $listener 20 || failed "the listener ended with $?"
heard=$(<"$work/listener.out")
[ "$(number events "$heard")" -ge "$(number enrol "$report")" ] &&
	[ "$(number unreadable "$heard")" = 0 ] || failed "$report, $heard"
echo "$(number calls "$report") calls, 0 failed, back after $took_ms ms: fine"
