#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The student example on the defaults: JSON and protobuf, what is refused, and
# an instance that is killed while calls are running on it.
. "$(dirname "$0")/student.sh"

flags=("--registry_address=lo:$("$root/tools/free-port")")
serve=("${flags[@]}" --address=127.0.0.1:0)
start first "$bin/student" "${serve[@]}" --id=student-1
first=$!
start second "$bin/student" "${serve[@]}" --id=student-2
second=$!
disown $second
start listener "$bin/student_listener" "${serve[@]}"
listener=$!
within 20 discoverable student '"student-1"' "${flags[@]}"
within 20 discoverable student '"student-2"' "${flags[@]}"
within 20 discoverable student-listener go.micro.srv.message "${flags[@]}"

# One student, and nobody.
line=$(sed -n 7p "$roster")
name=$(sed 's/{"name":\("[^"]*"\).*/\1/' <<<"$line")
answer=$("$bin/svc" call student Student.Get "{\"name\":$name}" "${flags[@]}")
[ "$answer" = "$line" ] || failed "asked for $line, got $answer"
! "$bin/svc" call student Student.Get '{"name":"Nobody"}' "${flags[@]}" \
	>"$work/nobody" 2>&1 || failed "found a student who is not there"
grep -q 'no student is called "Nobody"' "$work/nobody" ||
	failed "$(cat "$work/nobody")"

# Students by streams: those who begin with a letter, and one after the other.
wanted=$(grep -c '^{"name":"A' "$roster")
"$bin/svc" stream student Student.List '{"name":"A"}' "${flags[@]}" \
	>"$work/listed"
[ "$(grep -c '^{"name":"A' "$work/listed")" = "$wanted" ] &&
	[ "$(grep -c . "$work/listed")" = "$wanted" ] ||
	failed "listed $(cat "$work/listed")"
sed 's/^{"name":\("[^"]*"\).*/{"name":\1}/' "$roster" |
	"$bin/svc" stream student Student.Find "${flags[@]}" >"$work/found"
cmp -s "$work/found" "$roster" || failed "found $(cat "$work/found")"
! "$bin/svc" stream student Student.Find '{"name":"Nobody"}' "${flags[@]}" \
	>"$work/nobody" 2>&1 || failed "found a student who is not there"
grep -q 'no student is called "Nobody"' "$work/nobody" ||
	failed "$(cat "$work/nobody")"

# Everybody, in both encodings.
total=$(grep -c . "$roster")
for type in application/json application/protobuf; do
	report=$("$bin/student_client" "${flags[@]}" --json --codec=$type)
	[ "$(number calls "$report")" = $((2 * total)) ] &&
		[ "$(number failed "$report")" = 0 ] &&
		[ "$(number enrolled "$report")" = "$total" ] &&
		[[ $report == *"\"content_type\":\"$type\""* ]] ||
		failed "$report"
	for node in student-1 student-2; do
		[ "$(number $node "$report")" -gt 0 ] ||
			failed "no call for $node: $report"
	done
done

# One of the two dies while calls are running on it.
start client "$bin/student_client" "${flags[@]}" --json --progress --rounds=0
client=$!
within 20 has_done $total
before=$(students_done)
kill -KILL $second
within 40 has_done $((before + 2 * total))
kill -TERM $client
ended $client 20 || failed "the client ended with $?"
report=$(tail -n 1 "$work/client.out")
[ "$(number failed "$report")" = 0 ] || failed "$report"
[ "$(number student-2 "$report")" -gt 0 ] || failed "$report"

kill -TERM $listener $first
ended $listener 20 || failed "the listener ended with $?"
ended $first 20 || failed "the service ended with $?"
heard=$(<"$work/listener.out")
[ "$(number distinct "$heard")" = "$total" ] &&
	[ "$(number unreadable "$heard")" = 0 ] || failed "$heard"

# refused STATUS TEXT COMMAND...: ends with the status and says the text.
refused() {
	local wanted=$1 text=$2 status=0
	shift 2
	"$@" >"$work/refused" 2>&1 || status=$?
	[ $status = "$wanted" ] || failed "status $status of $*"
	grep -qF -- "$text" "$work/refused" || failed "$(cat "$work/refused")"
}
printf '%s\n{"name":"Ada","grade":"high"}\n' "$line" >"$work/bad.jsonl"
printf '%s\n%s\n' "$line" "$line" >"$work/twice.jsonl"
: >"$work/empty.jsonl"
refused 2 'bad.jsonl line 2: ' "$bin/student" --roster="$work/bad.jsonl"
refused 2 "twice.jsonl has $name twice" \
	"$bin/student" --roster="$work/twice.jsonl"
refused 2 'empty.jsonl has no students' \
	"$bin/student" --roster="$work/empty.jsonl"
for program in student student_etcd student_client; do
	refused 2 'none.jsonl cannot be opened' \
		"$bin/$program" --roster="$work/none.jsonl"
	refused 2 '--roster is empty' "$bin/$program" --roster=
done
refused 2 'cannot be read: Is a directory' "$bin/student" --roster="$work"
for program in student student_etcd student_client student_listener; do
	refused 2 'unexpected argument "stray"' "$bin/$program" stray
	refused 2 '--registry: no registry "nosuch"' \
		"$bin/$program" --registry=nosuch
done
refused 2 '--count=-1 must be 0' "$bin/student_listener" --count=-1
refused 2 '--workers=0 must be from 1 to 64' "$bin/student_client" --workers=0
refused 2 'did you mean --roster?' "$bin/student" --rooster=x
echo "JSON, protobuf, a kill and what is refused: fine"
