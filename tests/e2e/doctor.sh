# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For the tests of `svc doctor`, which read this first.
. "$(dirname "${BASH_SOURCE[0]}")/student.sh"

# The command before it, as `ip netns exec NAME`, when it is on another host.
host=()

# doctor STATUS FLAG...: its output in $out; all of it is in JSON as well.
doctor() {
	local status=$1 got=0
	shift
	out=$("${host[@]}" "$bin/svc" doctor "$@" 2>"$work/doctor.log") || got=$?
	printf '%s\n' "$out" >"$work/doctor.out"
	[ "$got" = "$status" ] || failed "doctor $*: status $got, not $status"
	got=0
	json=$("${host[@]}" "$bin/svc" doctor --json "$@" 2>"$work/doctor.log") || got=$?
	printf '%s\n' "$json" >"$work/json.out"
	[ "$got" = "$status" ] || failed "with --json: $got, not $status"
	# `svc publish` takes nothing but JSON.
	"$bin/svc" publish topic - --registry=memory --broker=memory \
		>"$work/parsed.out" 2>&1 <<<"$json" ||
		failed "not JSON: $(<"$work/parsed.out")"
}
says() { grep -q -- "$1" <<<"$out" || failed "no '$1' in: $out"; }
says_not() { ! grep -q -- "$1" <<<"$out" || failed "'$1' in: $out"; }
# in_json CHECK STATE: there is such a check.
in_json() {
	grep -q "{\"check\":\"$1\",\"state\":\"$2\"," <<<"$json" ||
		failed "no $1 that is $2 in: $json"
}
