#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# With --json each command of `svc` writes one JSON document a result to standard
# output and nothing else, when it works and when it does not.
. "$(dirname "$0")/student.sh"
need python3

flags=("--registry_address=lo:$("$root/tools/free-port")")

# json STATUS N COMMAND...: ends with the status, and writes N lines of JSON. One
# that fails ends with {"error", "code"}, and says the same on standard error.
json() {
	local wanted=$1 n=$2 status=0
	shift 2
	"$bin/svc" "$@" --json "${flags[@]}" >"$work/json" 2>"$work/said" \
		</dev/null || status=$?
	[ $status = "$wanted" ] ||
		failed "status $status of $*: $(<"$work/said")"
	python3 - "$work/json" "$work/said" "$wanted" "$n" <<'EOF' || failed "$*"
import json, sys

def refuse(word):
    raise ValueError(word)

out, said, status, n = open(sys.argv[1], 'rb').read(), open(sys.argv[2]).read(), \
    int(sys.argv[3]), int(sys.argv[4])
lines = out.decode('utf-8').split('\n')
assert lines.pop() == '', out
assert len(lines) == n, out
documents = [json.loads(line, parse_constant=refuse) for line in lines]
last = documents[-1] if documents else None
if status != 0 and not (isinstance(last, list) or 'checks' in last):
    assert sorted(last) == ['code', 'error'], out
    assert last['code'].startswith('SVC_E_'), out
    assert said.splitlines()[-1] == 'svc: ' + last['error'], said
    assert status != 2 or last['code'] == 'SVC_E_INVAL', out
EOF
}

start first "$bin/student" "${flags[@]}" --address=127.0.0.1:0 --id=student-1
within 20 discoverable student '"student-1"' "${flags[@]}"
name=$(sed -n '1s/{"name":\("[^"]*"\).*/\1/p' "$roster")

json 0 1 list
json 0 1 get student
json 0 1 health student
json 0 1 call student Student.Get "{\"name\":$name}"
json 0 2 stream student Student.Find "{\"name\":$name}" "{\"name\":$name}"
json 0 1 publish json.test '{"a": [1, "é"]}'
json 0 1 watch student --count=1
json 0 1 doctor

json 1 1 get nobody
json 1 1 health nobody
json 1 1 call nobody A.B
json 1 1 call student Student.Get '{"name":"Nobody"}'
json 1 1 call student Student.None
json 1 2 stream student Student.Find "{\"name\":$name}" '{"name":"Nobody"}'
json 1 1 stream nobody A.B
json 1 1 call student Student.Get --max_message_size=1
json 2 1 call student Student.Get '{'
json 2 1 stream student Student.Find '{'
json 2 1 publish 'a#b'
json 2 1 publish topic '{'
json 2 1 subscribe 'a#b'
json 2 1 get 'a/b'
json 2 1 call 'a/b' A.B
json 2 1 call student ''
json 2 1 stream 'a/b' A.B
json 2 1 list more
json 2 1 call student
json 2 1 lst
json 2 1
json 2 1 list --count=3
json 2 1 watch --count=many
json 2 1 list --registri=mdns
json 2 1 list --selector=x
json 2 1 list --log_level=inf
json 1 1 doctor --registry=no_such

# The environment says it as well; an event, and a signal to who waits for more.
SVC_JSON=yes start subscriber "$bin/svc" subscribe json.event --count=1 \
	"${flags[@]}"
subscriber=$!
subscribed() { grep -q '^subscribed to' "$work/subscriber.log"; }
within 20 subscribed
heard() {
	"$bin/svc" publish json.event '{"b":2}' "${flags[@]}" >/dev/null
	[ -s "$work/subscriber.out" ]
}
within 20 heard
ended $subscriber 20 || failed "the subscriber ended with $?"
python3 - "$work/subscriber.out" <<'EOF'
import json, sys
event = json.load(open(sys.argv[1]))
assert event['topic'] == 'json.event' and event['body'] == {'b': 2}, event
EOF

# A registry that is away.
flags=(--registry=redis "--registry_address=127.0.0.1:$("$root/tools/free-port")"
	--client_request_timeout=300ms --registry_timeout=300ms)
for words in list 'get a' 'health a' 'call a A.B' 'stream a A.B'; do
	# shellcheck disable=SC2086
	json 1 1 $words
done
json 1 1 doctor
echo "one document each"
