#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The student example over mutual TLS: its own CA, what the registry says, who is
# refused and how that reads, and a certificate that is replaced while calls run.
#
# usage: student_tls_test.sh TRANSPORT
. "$(dirname "$0")/student.sh"
need openssl

# certificate NAME EXTENSION...: NAME.pem and NAME.key in $work, by the CA.
certificate() {
	local name=$1
	shift
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-keyout "$work/$name.key.new" -out "$work/$name.pem.new" \
		-subj "/CN=$name" -days 2 "$@" 2>"$work/openssl" ||
		failed "$(cat "$work/openssl")"
	mv "$work/$name.key.new" "$work/$name.key"
	mv "$work/$name.pem.new" "$work/$name.pem"
}
signed() {
	certificate "$1" -CA "$work/ca.pem" -CAkey "$work/ca.key" \
		-addext "basicConstraints=CA:FALSE" -addext "subjectAltName=$2"
}
somebody="{\"name\":$(sed -n '7s/{"name":\("[^"]*"\).*/\1/p' "$roster")}"
certificate ca
certificate other_ca
signed student DNS:student,IP:127.0.0.1
signed client DNS:client

flags=("--registry_address=lo:$("$root/tools/free-port")" "--transport=$1")
ca=("--tls_ca=$work/ca.pem")
shows_student=("--tls_cert=$work/student.pem" "--tls_key=$work/student.key")
shows_client=("--tls_cert=$work/client.pem" "--tls_key=$work/client.key")
start student "$bin/student" "${flags[@]}" --address=127.0.0.1:0 \
	--id=student-1 "${ca[@]}" "${shows_student[@]}"
student=$!
start listener "$bin/student_listener" "${flags[@]}" --address=127.0.0.1:0 \
	"${ca[@]}" "${shows_student[@]}"
listener=$!
within 20 discoverable student '"student-1"' "${flags[@]}"
within 20 discoverable student-listener go.micro.srv.message "${flags[@]}"
"$bin/svc" get student --json "${flags[@]}" >"$work/record"
grep -q '"tls":"true"' "$work/record" || failed "$(cat "$work/record")"

# Everybody, by the settings of the environment as well as by flags.
total=$(grep -c . "$roster")
report=$("$bin/student_client" "${flags[@]}" --json "${ca[@]}" \
	"${shows_client[@]}")
[ "$(number failed "$report")" = 0 ] &&
	[ "$(number enrolled "$report")" = "$total" ] || failed "$report"
SVC_TLS_CA=$work/ca.pem SVC_TLS_CERT=$work/client.pem \
	SVC_TLS_KEY=$work/client.key "$bin/svc" call student Student.Get "$somebody" \
	"${flags[@]}" >"$work/list" 2>&1 || failed "$(cat "$work/list")"

# refused TEXT FLAG...: a call fails, and says so, long before it times out.
refused() {
	local text=$1
	shift
	! timeout 30 "$bin/svc" call student Student.Get "$somebody" "${flags[@]}" \
		--client_request_timeout=300s "$@" >"$work/refused" 2>&1 ||
		failed "was not refused: $*"
	grep -q "$text" "$work/refused" || failed "$(cat "$work/refused")"
}
refused 'speaks TLS, this client does not: give --tls_ca'
refused 'demands a certificate of this client' "${ca[@]}"
refused 'certificate of 127.0.0.1:[0-9]* was refused: ' \
	"--tls_ca=$work/other_ca.pem" "${shows_client[@]}"
refused 'it is not for "teacher"' "${ca[@]}" "${shows_client[@]}" \
	--tls_name=teacher
! grep -q 'left the TLS handshake' "$work/student.log" ||
	failed "who only went away is no matter for the log"
grep -q 'tls.refused.*127.0.0.1:[0-9]* was refused: it showed no certificate' \
	"$work/student.log" || failed "the service did not log who was refused"

# Bad settings end the start with status 2 and one line.
status=0
"$bin/student" "${flags[@]}" "${ca[@]}" "--tls_cert=$work/student.pem" \
	"--tls_key=$work/client.key" >"$work/bad.out" 2>"$work/bad" || status=$?
[ $status = 2 ] && [ "$(wc -l <"$work/bad")" = 1 ] &&
	grep -q 'client.key" (--tls_key) does not belong to' "$work/bad" ||
	failed "status $status: $(cat "$work/bad")"

# A new certificate while calls run: none fails, and new callers get it.
start client "$bin/student_client" "${flags[@]}" --json --progress --rounds=0 \
	"${ca[@]}" "${shows_client[@]}"
client=$!
within 20 has_done $total
signed student DNS:renewed,IP:127.0.0.1
within 20 "$bin/svc" call student Student.Get "$somebody" "${flags[@]}" "${ca[@]}" \
	"${shows_client[@]}" --tls_name=renewed
before=$(students_done)
within 40 has_done $((before + total))
kill -TERM $client
ended $client 20 || failed "the client ended with $?"
report=$(tail -n 1 "$work/client.out")
[ "$(number failed "$report")" = 0 ] || failed "$report"

kill -TERM $listener $student
ended $listener 20 || failed "the listener ended with $?"
ended $student 20 || failed "the service ended with $?"
