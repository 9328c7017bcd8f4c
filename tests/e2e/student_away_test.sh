#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Clients that start while etcd is dead: with what was known last, and with a
# file of addresses, no call fails; without, every one does. When etcd is back,
# empty, it alone counts.
. "$(dirname "$0")/student.sh"
need etcd curl

start_etcd
flags=(--registry=etcd "--registry_address=127.0.0.1:$etcd_port")
serve=("${flags[@]}" --registry_ttl=10 --registry_interval=3
	--address=127.0.0.1:0)
known=(--registry_snapshot="$work/known")
start first "$bin/student" "${serve[@]}" --id=student-1
first=$!
within 20 discoverable student '"student-1"' "${flags[@]}"
address=$("$bin/svc" get student --json "${flags[@]}" |
	sed -n 's/.*"address": *"\([^"]*\)".*/\1/p' | head -n 1)
[ -n "$address" ] || failed "no address of student-1"
report=$("$bin/student_client" "${flags[@]}" "${known[@]}" --json) ||
	failed "$report"
[ "$(stat -c %a "$work/known")" = 600 ] || failed "$(ls -l "$work/known")"
grep -q '"student-1"' "$work/known" || failed "$(cat "$work/known")"

kill -KILL $etcd
ended $etcd 10 2>/dev/null || true

report=$("$bin/student_client" "${flags[@]}" "${known[@]}" --json \
	2>"$work/known.log") || failed "with a snapshot: $report"
[ "$(number failed "$report")" = 0 ] || failed "with a snapshot: $report"
grep -q 'going on with what was known last' "$work/known.log" ||
	failed "it did not say so"
discoverable student '"student-1"' "${flags[@]}" "${known[@]}" ||
	failed "svc get does not use the snapshot"
echo "student: [\"$address\"]" >"$work/nodes.yaml"
spare=(--registry_fallback="static:$work/nodes.yaml")
report=$("$bin/student_client" "${flags[@]}" "${spare[@]}" --json \
	2>"$work/spare.log") || failed "with a file: $report"
[ "$(number failed "$report")" = 0 ] || failed "with a file: $report"
name=$(sed -n '1s/.*"name": *\("[^"]*"\).*/\1/p' "$roster")
! "$bin/svc" call student Student.Get "{\"name\":$name}" "${flags[@]}" \
	--client_request_timeout=2s >"$work/alone.out" 2>&1 ||
	failed "without either it should know nobody"
"$bin/svc" call student Student.Get "{\"name\":$name}" "${flags[@]}" \
	"${spare[@]}" --client_request_timeout=20s >"$work/alone.out" 2>&1 ||
	failed "svc call does not use the file"

# One that begins in the outage and lives on behind it.
start client "$bin/student_client" "${flags[@]}" "${known[@]}" "${spare[@]}" \
	--json --progress --rounds=0 --rate=200
client=$!
within 20 has_done 50
rm -rf "$work/etcd"
start_etcd
start second "$bin/student" "${serve[@]}" --id=student-2
second=$!
within 20 discoverable student '"student-1"' "${flags[@]}"
within 20 discoverable student '"student-2"' "${flags[@]}"
within 20 grep -q '"student-2"' "$work/known"
within 20 grep -q 'registry.answers' "$work/client.log"
kill -TERM $first
ended $first 20 || failed "student-1 ended with $?"
gone() { ! grep -q '"student-1"' "$work/known"; }
within 20 gone
within 60 has_done $(($(students_done) + 200))
kill -TERM $client
ended $client 20 || failed "the client ended with $?"
report=$(tail -n 1 "$work/client.out")
[ "$(number failed "$report")" = 0 ] || failed "$report"
[ "$(number student-1 "$report")" -gt 0 ] &&
	[ "$(number student-2 "$report")" -gt 0 ] || failed "$report"
kill -TERM $second
ended $second 20 || failed "student-2 ended with $?"
echo "$(number calls "$report") calls, 0 failed: fine"
