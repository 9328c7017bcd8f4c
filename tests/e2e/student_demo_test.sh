#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo in one of its forms; it leaves no file and no process behind.
#
# usage: student_demo_test.sh [REGISTRY=...] [BROKER=...]
. "$(dirname "$0")/student.sh"
[[ "$*" != *etcd* ]] || need etcd curl
[[ "$*" != *redis* ]] || need redis-server
[[ "$*" != *consul* ]] || need consul curl
[[ "$*" != *mqtt* ]] || need mosquitto
mkdir "$work/tmp"
status=0
env "$@" TMPDIR="$work/tmp" BUILD="${bin%/bin}" \
	"$root/tools/demo" >"$work/demo.out" 2>"$work/demo.log" || status=$?
cat "$work/demo.out"
[ $status = 0 ] || failed "the demo ended with $status"
grep -q 'kill -9 student-2' "$work/demo.out" || failed "nobody was killed"
[ -z "$(ls -A "$work/tmp")" ] || failed "left behind: $(ls -A "$work/tmp")"
! grep -lsF "TMPDIR=$work/tmp" /proc/[0-9]*/environ >"$work/left" 2>&1 ||
	failed "processes are left: $(cat "$work/left")"
