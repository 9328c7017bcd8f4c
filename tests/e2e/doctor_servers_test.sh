#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `svc doctor` with servers that are well but not for us: certificates by another
# CA, for another name and of another time, tokens that consul does not know, a
# redis that is full. Each time it says what to do.
. "$(dirname "$0")/doctor.sh"
need consul curl etcd openssl redis-server redis-cli

# ---------------------------------------------------------------- certificates
new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
# authority NAME
authority() {
	openssl req -x509 "${new_key[@]}" -days 2 -subj "/CN=$1" \
		-keyout "$work/$1.key" -out "$work/$1.pem"
}
# issue NAME SUBJECT-ALT-NAME DAYS: by the authority "ca".
issue() {
	openssl req "${new_key[@]}" -subj "/CN=$1" -keyout "$work/$1.key" \
		-out "$work/$1.csr"
	openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.pem" \
		-CAkey "$work/ca.key" -CAcreateserial -days "$3" \
		-extfile <(echo "subjectAltName=$2") -out "$work/$1.pem"
}
{
	authority ca
	authority other
	issue good IP:127.0.0.1 2
	issue named DNS:registry.test 2
	issue old IP:127.0.0.1 -1
} >"$work/openssl.out" 2>&1

# start_tls_etcd NAME: with the certificate NAME.
start_tls_etcd() {
	for _ in 1 2 3; do
		{ read -r port; read -r peer; } < <("$root/tools/free-port" 2)
		start "etcd-$1" etcd --name n1 --data-dir "$work/etcd-$1-$port" \
			--listen-client-urls "https://127.0.0.1:$port" \
			--advertise-client-urls "https://127.0.0.1:$port" \
			--listen-peer-urls "http://127.0.0.1:$peer" \
			--initial-advertise-peer-urls "http://127.0.0.1:$peer" \
			--initial-cluster "n1=http://127.0.0.1:$peer" \
			--cert-file "$work/$1.pem" --key-file "$work/$1.key" \
			--unsafe-no-fsync
		etcd=$!
		while kill -0 $etcd 2>/dev/null; do
			! curl -ksS -m 1 "https://127.0.0.1:$port/health" \
				>/dev/null 2>&1 || return 0
			sleep 0.05
		done
	done
	failed "etcd does not start"
}
# tls STATUS FLAG...: with the registry at $port.
tls() {
	local status=$1
	shift
	doctor "$status" --registry=etcd --broker=memory \
		"--registry_address=127.0.0.1:$port" "$@"
}

echo 'no certificate' >"$work/text"
start_tls_etcd good
tls 0 "--registry_tls_ca=$work/ca.pem"
says '^ok       registry announce: '
tls 1 "--registry_tls_ca=$work/other.pem"
says '^failed   registry announce: .*its certificate is not trusted'
says '^         -> name by --registry_tls_ca the file of the CA that issued'
# Files that are not what they are given for.
tls 1 "--registry_tls_ca=$work/text"
says '^failed   registry announce: .*--registry_tls_ca'
says '^         -> give --registry_tls_ca a PEM file of CA certificates'
tls 1 "--registry_tls_ca=$work/ca.pem" "--registry_tls_cert=$work/good.pem" \
	"--registry_tls_key=$work/named.key"
says '^failed   registry announce: .*see --registry_tls_cert and --registry_tls_k'
says '^         -> give the key that belongs to --registry_tls_cert'
tls 1 "--registry_tls_ca=$work/ca.pem" "--registry_tls_cert=$work/text" \
	"--registry_tls_key=$work/named.key"
says '^         -> give --registry_tls_cert a PEM file'
# Full: the alarm that etcd raises when its quota is used up.
curl -ksS -m 5 "https://127.0.0.1:$port/v3/maintenance/alarm" \
	-d '{"action":"ACTIVATE","alarm":"NOSPACE"}' >"$work/alarm.out"
tls 1 "--registry_tls_ca=$work/ca.pem"
says '^failed   registry announce: .*database space exceeded'
says '^         -> make room .*etcdctl alarm disarm'
tls 1
says '^failed   registry announce: .*if it speaks TLS, use https://'
says '^         -> write https:// before the address'
start_tls_etcd named
tls 1 "--registry_tls_ca=$work/ca.pem"
says '^failed   registry announce: .*its certificate is for another name'
says '^         -> put the name into --registry_address .*--registry_tls_name'
tls 0 "--registry_tls_ca=$work/ca.pem" --registry_tls_name=registry.test
start_tls_etcd old
tls 1 "--registry_tls_ca=$work/ca.pem"
says '^failed   registry announce: .*its certificate is out of date'
says '^         -> issue a new certificate .*set the clock of this host'

# ---------------------------------------------------------------------- consul
master=11111111-2222-3333-4444-555555555555
cat >"$work/consul.hcl" <<-END
	disable_update_check = true
	acl {
	  enabled = true
	  default_policy = "deny"
	  tokens {
	    master = "$master"
	  }
	}
END
start_consul() {
	for _ in 1 2 3; do
		{ read -r port; read -r peer; read -r serf; } \
			< <("$root/tools/free-port" 3)
		start consul consul agent -dev -config-file "$work/consul.hcl" \
			-bind 127.0.0.1 -client 127.0.0.1 -node t1 \
			-disable-host-node-id -http-port "$port" \
			-server-port "$peer" -serf-lan-port "$serf" \
			-serf-wan-port -1 -dns-port -1 -grpc-port -1
		consul=$!
		while kill -0 $consul 2>/dev/null; do
			! ask GET "agent/self" >/dev/null 2>&1 || return 0
			sleep 0.05
		done
	done
	failed "consul does not start"
}
# ask METHOD PATH [BODY]: as the master.
ask() {
	curl -fsS -m 5 -X "$1" -H "X-Consul-Token: $master" \
		${3:+-d "$3"} "http://127.0.0.1:$port/v1/$2"
}
start_consul
flags=(--registry=consul "--registry_address=127.0.0.1:$port"
	--broker=memory)
# With no more than what the advice says.
has_token() {
	ask PUT acl/policy '{"Name":"svc","Rules":"service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }"}' &&
		token=$(ask PUT acl/token '{"Policies":[{"Name":"svc"}]}' |
			sed -n 's/.*"SecretID": *"\([^"]*\)".*/\1/p') &&
		[ -n "$token" ]
}
within 20 has_token
token=$(ask PUT acl/token '{"Policies":[{"Name":"svc"}]}' |
	sed -n 's/.*"SecretID": *"\([^"]*\)".*/\1/p')
SVC_REGISTRY_PASSWORD=$token doctor 0 "${flags[@]}"
says "^ok       registry 127.0.0.1 port $port: the port is open"
says '^ok       clock: within a second'
for check in announce watch lookup withdraw gone; do
	says "^ok       registry $check: "
done
# What is there is something else.
doctor 1 --registry=etcd "--registry_address=127.0.0.1:$port" --broker=memory
says '^failed   registry announce: .*does not answer as etcd does (HTTP status 404'
says '^         -> name the client port of an etcd'
doctor 1 --registry=redis "--registry_address=127.0.0.1:$port" --broker=memory
says '^         -> name the port of a redis'
doctor 1 "${flags[@]}" --registry_password=wrong
says '^failed   registry announce: .*ACL not found'
says '^         -> give an ACL token that may write services'
doctor 1 "${flags[@]}"
says '^failed   registry announce: .*Permission denied'
says '^         -> give an ACL token .*SVC_REGISTRY_PASSWORD'
kill -KILL $consul
ended $consul 10 2>/dev/null || true
doctor 1 "${flags[@]}"
says "^failed   registry 127.0.0.1 port $port: refused"
says '^         -> start the server there'
in_json 'registry announce' skipped

# ----------------------------------------------------------------------- redis
for _ in 1 2 3; do
	port=$("$root/tools/free-port")
	start redis redis-server --port "$port" --bind 127.0.0.1 \
		--dir "$work" --save '' --maxmemory 1 \
		--maxmemory-policy noeviction
	redis=$!
	while kill -0 $redis 2>/dev/null; do
		[ "$(redis-cli -p "$port" ping 2>/dev/null)" != PONG ] ||
			break 2
		sleep 0.05
	done
done
doctor 1 --registry=redis "--registry_address=127.0.0.1:$port" \
	--broker=memory
says '^failed   registry announce: redis at .* is full: raise its maxmemory'
says '^         -> give the server more memory'

# A broker that is down.
port=$("$root/tools/free-port")
doctor 1 --registry=memory --broker=mqtt "--broker_address=127.0.0.1:$port"
says "^failed   broker 127.0.0.1 port $port: refused"
says '^         -> start the server there'
says '^failed   broker publish: '
echo "the doctor knows what servers refuse: fine"
