#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `svc doctor` on a host whose network fails: a firewall that drops or rejects, no
# route, names that do not resolve, an address that others cannot dial, no
# multicast. Two hosts are two network namespaces.
. "$(dirname "$0")/doctor.sh"
need ip iptables ip6tables redis-server redis-cli mosquitto
# Names that no other test has.
here=svc-doctor-$$-a there=svc-doctor-$$-b
if [ "$(id -u)" != 0 ] || ! ip netns add "$here" 2>"$work/ip.log"; then
	echo "skipped: making network namespaces needs root"
	exit 77
fi
remove_networks() {
	cleanup
	ip netns del "$here" 2>/dev/null || true
	ip netns del "$there" 2>/dev/null || true
}
trap remove_networks EXIT
ip netns add "$there"
on_here() { ip netns exec "$here" "$@"; }
on_there() { ip netns exec "$there" "$@"; }
ip link add v1 netns "$here" type veth peer name v2 netns "$there"
on_here ip addr add 10.99.0.1/24 dev v1
on_there ip addr add 10.99.0.2/24 dev v2
for name in lo v1; do on_here ip link set $name up; done
for name in lo v2; do on_there ip link set $name up; done
host=(ip netns exec "$here")

start redis ip netns exec "$there" redis-server --port 6379 --bind 10.99.0.2 \
	--protected-mode no --save '' --dir "$work"
printf 'listener 1883 10.99.0.2\nallow_anonymous true\n' >"$work/conf"
start mosquitto ip netns exec "$there" mosquitto -c "$work/conf"
answers() {
	[ "$(on_here redis-cli -h 10.99.0.2 ping)" = PONG ] &&
		on_here bash -c '(exec 3<>/dev/tcp/10.99.0.2/1883)'
}
within 20 answers
flags=(--registry=redis --registry_address=10.99.0.2 --broker=mqtt
	--broker_address=10.99.0.2)

doctor 0 "${flags[@]}"
says '^ok       own address: .* as 10.99.0.1:'
says '^ok       broker event: '
says_not '^warning'

# What others are told is of use to nobody else.
doctor 0 "${flags[@]}" --address=127.0.0.1:0
says '^warning  own address: .* as 127.0.0.1:.*the registry is beyond this host'
says '^         -> nobody on another host can dial that: give --advertise'
doctor 0 "${flags[@]}" --address=127.0.0.1:0 --advertise=10.99.0.77:9
says '^warning  own address: .*10.99.0.77:9, which cannot be dialled'

# A firewall on the other side, which says nothing, and one that says no.
short=(--registry_timeout=1s --client_request_timeout=1s --timeout=1s)
on_there iptables -A INPUT -p tcp -j DROP
doctor 1 "${flags[@]}" "${short[@]}"
says '^failed   registry 10.99.0.2 port 6379: no answer within'
says '^         -> a firewall drops the packets.* allow TCP port 6379'
says '^failed   broker 10.99.0.2 port 1883: no answer within'
says 'allow TCP port 1883 on both sides'
on_there iptables -F INPUT
on_there iptables -A INPUT -p tcp -j REJECT \
	--reject-with icmp-admin-prohibited
doctor 1 "${flags[@]}" "${short[@]}"
says '^failed   registry 10.99.0.2 port 6379: unreachable: '
says '^         -> check the route to it (ip route get 10.99.0.2) and that no '
on_there iptables -F INPUT

# No route, and no such name.
doctor 1 --registry=redis --registry_address=10.98.0.1 --broker=memory \
	"${short[@]}"
says '^failed   registry 10.98.0.1 port 6379: unreachable: Network is unreach'
says '^         -> check the route to it (ip route get 10.98.0.1)'
doctor 1 --registry=redis --registry_address=registry.invalid \
	--broker=memory "${short[@]}"
says '^failed   registry registry.invalid port 6379: the host name does not re'
says '^         -> check its spelling'

# Multicast: as it should be, forbidden on the way out, lost on the way in,
# nowhere but on the loopback interface, and nowhere.
mdns=(--registry=mdns --broker=memory)
doctor 0 "${mdns[@]}"
says '^ok       mdns v1 IPv4: .*multicast comes back'
says_not 'only the loopback interface'
on_here iptables -A OUTPUT -p udp --dport 5353 -j DROP
doctor 0 "${mdns[@]}" --registry_address=v1
says '^warning  mdns v1 IPv4: cannot send to UDP port 5353'
says '^ok       mdns v1 IPv6: '
on_here ip6tables -A OUTPUT -p udp --dport 5353 -j DROP
doctor 1 "${mdns[@]}" --registry_address=v1 "${short[@]}"
says '^failed   mdns v1 IPv4: cannot send to UDP port 5353'
says '^         -> a firewall or a security policy of this host forbids it'
on_here iptables -F OUTPUT
on_here ip6tables -F OUTPUT
on_here iptables -A INPUT -p udp --dport 5353 -j DROP
on_here ip6tables -A INPUT -p udp --dport 5353 -j DROP
doctor 1 "${mdns[@]}" --registry_address=v1 "${short[@]}"
says '^failed   mdns v1 IPv4: a question .* does not come back'
says '^         -> allow UDP 5353 in and out'
on_here iptables -F INPUT
on_here ip6tables -F INPUT
on_here ip link set v1 down
doctor 0 "${mdns[@]}"
says '^warning  mdns: there is only the loopback interface'
says '^         -> bring an interface up, or take a registry with a server'
on_here ip link set lo down
doctor 1 "${mdns[@]}" "${short[@]}"
says '^failed   mdns: no interface that is up'
says '^         -> bring an interface up (ip link set INTERFACE up'
echo "the doctor knows the network: fine"
