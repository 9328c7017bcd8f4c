#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The benchmark as a program: does it measure what it says, and print it? Nothing
# here is about speed.
#
# usage: bench_test.sh
# shellcheck source=tests/e2e/student.sh
. "${BASH_SOURCE[0]%/*}/student.sh"
bench=$root/tools/run-bench

# ------------------------------------------------------------ the programs

# field NAME LINE
field() {
	local i
	i=$("$bin/bench_raw" header | tr , '\n' | grep -nx "$1" | cut -d: -f1)
	cut -d, -f"$i" <<<"$2"
}

# serve NAME PEER OPTION...: sets $server and $address.
serve() {
	local name=$1 peer=$2
	shift 2
	start "$name" "$bin/bench_$peer" server 127.0.0.1:0 "$@"
	server=$!
	within 20 grep -q '^ready ' "$work/$name.out"
	read -r _ address _ <"$work/$name.out"
}

# The client is connected to $address: it begins now. (By then a frozen server's
# backlog has taken it.)
connected() {
	local port
	port=$(printf '%04X' "${address##*:}")
	grep -q " 0100007F:$port 01 " /proc/net/tcp
}

# An open loop owes a call each millisecond, and a server that is frozen for
# half of the time owes its answers: a third of the calls waits long, not one.
serve frozen raw
kill -STOP "$server"
start open "$bin/bench_raw" client "$address" --rate=1000 --duration=1 \
	--warmup=0 --outstanding=64
open=$!
within 20 connected
sleep 0.5
kill -CONT "$server"
ended $open 20 || failed "the open loop: $(cat "$work/open.log")"
line=$(cat "$work/open.out")
[ "$(field calls "$line")" = 1000 ] || failed "not all calls: $line"
[ "$(field missed "$line")" = 0 ] || failed "missed calls: $line"
awk -v p99="$(field p99_us "$line")" 'BEGIN { exit !(p99 > 300000) }' ||
	failed "coordinated omission: $line"

# The same at a rate at which callbacks begin the calls. svc's client is greeted
# first, for it gives up who is silent.
serve frozen svc
start open "$bin/bench_svc" client "$address" --rate=51000 --duration=2 \
	--warmup=0 --outstanding=64
open=$!
within 20 connected
sleep 0.2
kill -STOP "$server"
sleep 0.5
kill -CONT "$server"
ended $open 20 || failed "the open loop: $(cat "$work/open.log")"
line=$(cat "$work/open.out")
awk -v done="$(field calls "$line")" -v missed="$(field missed "$line")" \
	'BEGIN { exit !(done > 64 && done + missed == 102000) }' ||
	failed "calls got lost: $line"
awk -v p99="$(field p99_us "$line")" 'BEGIN { exit !(p99 > 300000) }' ||
	failed "coordinated omission: $line"

# So many calls and no more, one in ten slow and not counted.
for peer in raw tcp svc; do
	serve "$peer" "$peer"
	line=$("$bin/bench_$peer" client "$address" --calls=200 --warmup=0 \
		--slow=10 --outstanding=4 --pids="$server")
	[ "$(field calls "$line")" = 180 ] || failed "$peer: $line"
	[ "$(field rss_server_kib "$line")" -gt 500 ] || failed "$peer: $line"
done
! "$bin/bench_raw" client "$address" --size=2 2>"$work/usage.log" ||
	failed "a size of 2 was taken"
grep -q 'give a number from 8' "$work/usage.log" || failed "usage"

# ------------------------------------------------------------- the harness

# A build that has raw and svc alone: the others are absent, and said to be.
mkdir -p "$work/build/bin" "$work/build/lib"
for program in raw svc start conns; do
	ln -s "$bin/bench_$program" "$work/build/bin/"
done
ln -s "$SVC_PLUGIN_PATH" "$work/build/lib/svc"
"$bench" --out="$work/out" --rounds=2 --calls=60 "$work/build" \
	>"$work/table.out" 2>"$work/bench.log" || failed "run-bench"
csv=$work/out/results.csv
for row in 1x64-64 1x64-1k 1x1-1k 64x1-1k slow-1k half-1k memory-1k memory-loop \
	stream-1k stream-tls tls-1k chain-1k 1x8-64k start idle conns; do
	awk -F, -v row=$row '
		FNR == 1 { fields = NF }
		NF != fields { print "fields: " $0; bad = 1 }
		$1 == row && $3 == "svc" && $9 > 0 { n++ }
		END { exit bad || n == 0 }' "$csv" ||
		failed "no figures of svc for $row: $(cat "$work/out/absent.txt")"
done
grep -q '^1x64-1k|nng|not built' "$work/out/absent.txt" || failed "absent"
grep -q 'nng: not built' "$work/table.out" || failed "absent, in the table"
grep -qE '^1 KiB, 1 outstanding, blocking  .* of [1-9]' "$work/table.out" ||
	failed "the table"
grep -qE 'p50 : raw <= 1.15 .*(pass|miss)' "$work/table.out" ||
	failed "the targets"
if LC_ALL=C grep -q $'\033' "$work/table.out"; then
	failed "colours, though it is no terminal"
fi

# ------------------------------------------------------------- the report

# Figures that are known: medians over rounds, ratios within each.
mkdir "$work/known"
: >"$work/known/absent.txt"
awk -F, -v OFS=, 'FNR == 1 { print
	for (i = 1; i <= NF; i++) at[$i] = i
	for (i = 1; i <= NF; i++) $i = 0
	split("800 400 900 300 500 250", rps, " ")
	for (r = 1; r <= 3; r++) for (p = 0; p < 2; p++) {
		$1 = "1x64-1k"; $2 = r; $(at["peer"]) = p ? "svc" : "raw"
		$(at["rps"]) = rps[2 * r - 1 + p]; $(at["calls"]) = 100
		$(at["p50_us"]) = 40 + p; $(at["p99_us"]) = 120 + p
		$(at["cpu_server_s"]) = 0.001
		$(at["rss_server_kib"]) = 9 * 1024
		$NF = "1000:50 2000000:49 30000000:1"; print
		$1 = "half-1k"; print
	}
}' "$csv" >"$work/known/results.csv"
"$bench" --report --out="$work/known" >"$work/known/table"
expect() { grep -qE "$1" "$work/known/table" || {
	cat "$work/known/table"
	failed "not in the report: $1"
}; }
expect '^1 KiB, 64 outstanding +300 +0\.50 +0\.33-0\.50 .* 41\.0 .* 10\.0 +9\.00'
expect '^1 KiB, 64 outstanding +calls/s : raw >= 0\.75 +0\.50 .* miss$'
expect '^1 KiB, 64 outstanding +CPU : raw <= 1\.4 +1\.00 .* pass$'
expect '^1 KiB, 64 outstanding +calls/s : nng >= 8 +- +absent$'
expect "^1 KiB, open loop .* p99 : raw's p50 <= 3 +3\.02 +3\.02-3\.02 +3\.00 +miss$"
"$bench" --report --markdown --out="$work/known" >"$work/known/markdown"
grep -q '^| 1 KiB, 64 outstanding | 300 | 0.50 | 0.33-0.50 |' \
	"$work/known/markdown" || failed "markdown"
svg=$work/known/latency.svg
[ "$(head -c 4 "$svg")" = '<svg' ] && [ "$(tail -n 1 "$svg")" = '</svg>' ] &&
	[ "$(grep -c '^<path ' "$svg")" = 4 ] || failed "the plot"
[ "$(grep -c '^<path ' "$work/out/latency.svg")" -ge 5 ] || failed "the plots"
echo "the benchmark measures what it says"
