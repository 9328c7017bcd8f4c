#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs/configuration.md has every setting of --help and no other, with the default
# that it has there; and what is not possible is refused by place and value.
. "$(dirname "$0")/student.sh"
page=$root/docs/configuration.md

# NAME DEFAULT of each flag; DEFAULT is empty when there is none.
"$bin/student" --help >"$work/help"
awk '
	function settle() {
		if (text == "")
			return
		name = text
		sub(/^ *--/, "", name)
		sub(/[= ].*/, "", name)
		value = ""
		if (match(text, /default: [^ )]+\)$/))
			value = substr(text, RSTART + 9, RLENGTH - 10)
		print name, value
		text = ""
	}
	/^  --/ { settle(); text = $0; next }
	/^      / { sub(/^ */, ""); text = text " " $0; next }
	{ settle(); if (/^(Application|Plugins):/) exit }' "$work/help" >"$work/flags"
[ "$(wc -l <"$work/flags")" -gt 40 ] || failed "$(<"$work/flags")"

# The rows of the page's tables, of which one may have several settings.
sed -n 's/^| \(`[a-z_`, ]*`\) | \([^|]*\) |.*/\1|\2/p' "$page" |
	awk -F'|' '{
		n = split($1, names, ", ")
		value = $2 ~ /^`[^`]*`$/ ? $2 : ""
		gsub("`", "", value)
		for (i = 1; i <= n; i++) {
			gsub("`", "", names[i])
			print names[i], value
		}
	}' >"$work/rows"

while read -r name value; do
	[ "$name" != help ] || continue
	grep -q "^$name " "$work/rows" ||
		failed "docs/configuration.md has no row for $name"
	[ "$name" != name ] || continue
	grep -qxF "$name $value" "$work/rows" ||
		failed "the default of $name is '$value', docs/configuration.md:" \
			"$(grep "^$name " "$work/rows")"
done <"$work/flags"
while read -r name _; do
	grep -q "^$name " "$work/flags" ||
		failed "docs/configuration.md has $name, which is no setting"
done <"$work/rows"

# What is not possible is refused with the place, the value and what is allowed.
refused() {
	local place=$1 value=$2
	shift 2
	local status=0 word
	"$@" >"$work/out" 2>&1 || status=$?
	[ $status = 2 ] || failed "$place: status $status: $(<"$work/out")"
	[ "$(wc -l <"$work/out")" = 1 ] || failed "$place: $(<"$work/out")"
	for word in "$place" "\"$value\"" allowed; do
		grep -qF -- "$word" "$work/out" ||
			failed "$place: no $word in: $(<"$work/out")"
	done
}
while read -r name value; do
	case $value in
	[0-9-]* | info | text) ;;
	*) continue ;;
	esac
	refused "--$name" '!' "$bin/student" "--$name=!"
	# One of each kind in the other places too, for each costs a process.
	case $name in
	weight | registry_ttl | stream_window | log_level) ;;
	*) continue ;;
	esac
	variable=${name^^}
	echo "$name: \"!\"" >"$work/bad.yaml"
	refused "SVC_$variable" '!' env "SVC_$variable=!" "$bin/student"
	refused "MICRO_$variable" '!' env "MICRO_$variable=!" "$bin/student"
	refused "bad.yaml line 1: $name" '!' "$bin/student" \
		"--config=$work/bad.yaml"
done <"$work/flags"
