#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The programs of docs/first-service.md do what it says.
. "$(dirname "$0")/student.sh"

"$root/tests/readme/compile-readme" "$root/docs/first-service.md" \
	"$work/blocks" "${CC:-cc}" "${bin%/bin}/lib" "$root/framework"
roll=$work/blocks/1 teacher=$work/blocks/2 janitor=$work/blocks/3
flags=("--registry_address=lo:$("$root/tools/free-port")")

start roll "$roll" "${flags[@]}" --address=127.0.0.1:0
roll_pid=$!
within 20 discoverable roll Roll.Call "${flags[@]}"
answer=$("$bin/svc" call roll Roll.Call '"Ada"' "${flags[@]}")
[ "$answer" = '"Ada" is present' ] || failed "$answer"
answer=$("$teacher" "${flags[@]}")
[ "$answer" = 'Ada is present' ] || failed "$answer"

start janitor "$janitor" "${flags[@]}" --address=127.0.0.1:0
janitor_pid=$!
within 20 discoverable janitor school.bell "${flags[@]}"
"$bin/svc" publish school.bell '"first break"' "${flags[@]}" >/dev/null
ended $janitor_pid 20 || failed "the listener ended with $?"
[ "$(<"$work/janitor.out")" = 'school.bell: "first break"' ] ||
	failed "$(<"$work/janitor.out")"
kill -TERM $roll_pid
ended $roll_pid 20 || failed "the service ended with $?"
