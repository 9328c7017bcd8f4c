#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `svc doctor` with real servers: all is well, nothing listens, a wrong login,
# a server that hangs, a clock that is wrong; nothing of its own is left behind.
#
# usage: doctor_test.sh [LIBRARY that moves the wall clock]
. "$(dirname "$0")/doctor.sh"

# By itself.
free=$("$root/tools/free-port")
doctor 1 --registry=no_such
says '^failed   settings: .*no_such.*looked in'
in_json settings failed
doctor 0 --registry=memory --broker=memory
says '^warning  registry memory: '
says '^ok       broker event: '
doctor 1 --registry=etcd --registry_address="127.0.0.1:$free"
says "^failed   registry 127.0.0.1 port $free: refused"
says '^         -> start the server there'
says '^skipped  registry announce: not tried'
says '^skipped  broker p2p: '
in_json "registry 127.0.0.1 port $free" failed
in_json 'own address' ok

# mdns on the loopback interface.
flags=("--registry_address=lo:$("$root/tools/free-port")")
doctor 0 "${flags[@]}"
says '^ok       mdns lo IPv4: .*multicast comes back'
says '^ok       registry gone: '
says '^ok       broker event: '
says_not '^failed'
in_json 'mdns lo IPv4' ok
in_json 'registry lookup' ok

# Servers.
need etcd etcdctl curl mosquitto
start_etcd
# start_mosquitto ANONYMOUS: $mosquitto is its pid, $port where it listens.
start_mosquitto() {
	for _ in 1 2 3; do
		port=$("$root/tools/free-port")
		printf 'listener %s 127.0.0.1\nallow_anonymous %s\n' "$port" \
			"$1" >"$work/conf"
		start mosquitto mosquitto -c "$work/conf"
		mosquitto=$!
		while kill -0 $mosquitto 2>/dev/null; do
			! listening "$port" || return 0
			sleep 0.02
		done
	done
	failed "mosquitto does not start"
}
start_mosquitto true
etcd_flags=(--registry=etcd "--registry_address=127.0.0.1:$etcd_port")
flags=("${etcd_flags[@]}" --broker=mqtt "--broker_address=127.0.0.1:$port")
export ETCDCTL_API=3
ctl() { etcdctl --endpoints="127.0.0.1:$etcd_port" "$@"; }
keys() { ctl get --prefix --keys-only /micro/registry/svc-; }
has_keys() { [ -n "$(keys)" ]; }
none_left() {
	local left
	left=$(keys)
	[ -z "$left" ] || failed "left behind: $left"
}

doctor 0 "${flags[@]}"
says "^ok       settings: registry etcd (flag)"
says "^ok       registry 127.0.0.1 port $etcd_port: the port is open"
says '^ok       clock: within a second'
for check in announce watch lookup withdraw gone; do
	says "^ok       registry $check: .* ms)\$"
done
says '^ok       own address: '
says "^ok       broker 127.0.0.1 port $port: "
says '^ok       broker event: the event came back ('
in_json 'broker publish' ok
[[ $json == *'"warnings":0,"failed":0}' ]] || failed "$json"
none_left

# One of the list is enough, and the environment is told from a flag.
SVC_REGISTRY_ADDRESS="127.0.0.1:$free,127.0.0.1:$etcd_port" \
	doctor 0 --registry=etcd
says 'registry_address .* (environment)'
says "^warning  registry 127.0.0.1 port $free: refused"
says "^ok       registry 127.0.0.1 port $etcd_port: "

# An hour ahead, by a library that is preloaded.
if [ $# -gt 0 ]; then
	printf '\x10\x0e\0\0\0\0\0\0' >"$work/ahead"
	CHAOS_WALL_CLOCK=$work/ahead LD_PRELOAD=$1 "$bin/svc" doctor \
		"${flags[@]}" >"$work/clock.out" 2>"$work/clock.log" ||
		failed "a wrong clock is no failure"
	out=$(<"$work/clock.out")
	says "^warning  clock: the registry's is 3[56].. s behind ours"
	says '^         -> let both hosts keep their time'
fi

# A broker that hangs: a signal ends it, and nothing is left.
kill -STOP $mosquitto
start hanging "$bin/svc" doctor "${flags[@]}" --client_request_timeout=10
hanging=$!
publishes() { grep -q 'broker 127.0.0.1 port' "$work/hanging.out"; }
within 30 has_keys
within 30 publishes
kill -INT $hanging
status=0
ended $hanging 30 || status=$?
[ $status = 1 ] || failed "ended with $status"
grep -q interrupted "$work/hanging.log" || failed "says nothing of the signal"
none_left
doctor 1 "${flags[@]}" --client_request_timeout=1
says '^failed   broker publish: '
says '^         -> see whether the server runs at --broker_address'
kill -CONT $mosquitto

# Logins.
start_mosquitto false
doctor 1 "${etcd_flags[@]}" --broker=mqtt "--broker_address=127.0.0.1:$port" \
	--broker_username=ada --broker_password=wrong
says "^ok       broker 127.0.0.1 port $port: "
says '^failed   broker publish: .*not authori[sz]ed'
says 'check --broker_username and the password'
none_left
{
	ctl user add root:secret
	ctl role add root
	ctl user grant-role root root
	ctl auth enable
} >"$work/etcdctl.out" 2>&1
doctor 0 "${etcd_flags[@]}" --registry_username=root \
	--registry_password=secret
doctor 1 "${flags[@]}" --registry_username=root --registry_password=wrong
says '^failed   registry announce: '
says '^         -> check --registry_username and the password'
says_not '^failed   registry 127'
says '^ok       broker event: '
in_json 'registry announce' failed
[[ $out$json != *wrong* ]] || failed "it shows the password"
echo "the doctor knows: fine"
