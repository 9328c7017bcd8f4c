#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The student example with a real MQTT broker, and MQTT clients that are not
# ours on either side.
. "$(dirname "$0")/student.sh"
need mosquitto mosquitto_pub mosquitto_sub
topic=go.micro.srv.message

for _ in 1 2 3; do
	port=$("$root/tools/free-port")
	printf 'listener %s 127.0.0.1\nallow_anonymous true\n' "$port" \
		>"$work/conf"
	start mosquitto mosquitto -c "$work/conf"
	while kill -0 $! 2>/dev/null && ! listening "$port"; do
		sleep 0.02
	done
	! kill -0 $! 2>/dev/null || break
done

flags=("--registry_address=lo:$("$root/tools/free-port")" --broker=mqtt
	"--broker_address=127.0.0.1:$port")
serve=("${flags[@]}" --address=127.0.0.1:0)
start service "$bin/student" "${serve[@]}"
service=$!
start listener "$bin/student_listener" "${serve[@]}" --count=2
listener=$!
within 20 discoverable student Student.Enrol "${flags[@]}"
within 20 discoverable student-listener student-listener "${flags[@]}"

# What the service publishes is read by another client.
line=$(sed -n 7p "$roster")
name=$(sed 's/{"name":"\([^"]*\)".*/\1/' <<<"$line")
start sub mosquitto_sub -h 127.0.0.1 -p "$port" -t $topic -C 1 -W 30
sub=$!
# It does not say when it has subscribed, so until it has heard of one.
enrol() {
	"$bin/svc" call student Student.Enrol "{\"name\":\"$name\"}" \
		"${flags[@]}" >"$work/enrol.out" 2>"$work/enrol.log" ||
		failed "$(cat "$work/enrol.log")"
	[ -s "$work/sub.out" ]
}
within 30 enrol
ended $sub 10 || failed "mosquitto_sub ended with $?"
event=$(<"$work/sub.out")
[[ $event == '{"Header":{'*"\"name\":\"$name\""*'"Body":"'* ]] ||
	failed "$event"
body=$(sed 's/.*"Body":"\([^"]*\)".*/\1/' <<<"$event" | base64 -d)
[ "$body" = "$line" ] || failed "the body is $body"

# What another client publishes, as go-micro does, reaches the listener.
body=$(printf '{"name":"Guest","classes":"Latin 1A","grade":88,"phone":"+1 212-555-0199"}' |
	base64 -w 0)
mosquitto_pub -h 127.0.0.1 -p "$port" -t $topic -q 1 \
	-m "{\"Header\":{\"name\":\"Guest\"},\"Body\":\"$body\"}"
ended $listener 20 || failed "the listener ended with $?"
heard=$(<"$work/listener.out")
[ "$(number distinct "$heard")" = 2 ] &&
	[ "$(number unreadable "$heard")" = 0 ] || failed "$heard"
kill -TERM $service
ended $service 20 || failed "the service ended with $?"
echo "$heard: fine"
