# SPDX-License-Identifier: Apache-2.0
# Reads bench/rows, absent.txt and results.csv, in this order, and prints the
# tables (format=text or markdown) or the plot of latencies (format=svg).
#
# A figure is the median over the rounds. A ratio is taken within each round, so
# that both sides had the same machine, and the median of the ratios is shown.

function trim(s) { gsub(/^ +| +$/, "", s); return s }

BEGIN {
	n_peers = split("svc raw tcp nng grpc nats nginx", peers, " ")
	names["rps"] = "calls/s"; names["bytes"] = "bytes/s"
	names["cpu"] = "CPU"; names["rss"] = "memory"
	names["extra"] = "memory each"
	units["p50"] = units["p99"] = units["p999"] = "us"
	units["cpu"] = "ms"; units["rss"] = "MiB"; units["extra"] = "bytes"
	labels["raw"] = "raw epoll"; labels["tcp"] = "svc's transport"
	labels["grpc"] = "gRPC C++"; labels["nats"] = "NATS"
}

FNR == 1 { file++ }

# ---------------------------------------------------------------- reading

file == 1 && !/^#/ && NF > 0 {
	split($0, part, "|")
	row = trim(part[2])
	rows[++n_rows] = row
	work[row] = trim(part[3])
	plotted[row] = (" " part[4] " ") ~ / plot /
	special[row] = part[4] ~ / program=/
	targets[row] = trim(part[6])
}

# absent.txt may be empty: its lines are known by their form.
FILENAME ~ /absent\.txt$/ {
	split($0, part, "|")
	absent[++n_absent] = $0
	next
}

FILENAME ~ /\.csv$/ {
	split($0, c, ",")
	if (c[1] == "row") {
		for (i = 1; i in c; i++)
			column[c[i]] = i
		next
	}
	row = c[1]; round = c[2]; peer = c[column["peer"]]
	key = row SUBSEP peer
	rounds[row] = round > rounds[row] ? round : rounds[row]
	calls = c[column["calls"]]
	have[key]++
	value[key, "rps", round] = c[column["rps"]]
	value[key, "bytes", round] = c[column["rps"]] * c[column["size"]]
	value[key, "p50", round] = c[column["p50_us"]]
	value[key, "p99", round] = c[column["p99_us"]]
	value[key, "p999", round] = c[column["p999_us"]]
	value[key, "cpu", round] = calls == 0 ? 0 : 1e6 * \
	    (c[column["cpu_client_s"]] + c[column["cpu_server_s"]]) / calls
	value[key, "rss", round] = c[column["rss_server_kib"]] / 1024
	value[key, "extra", round] = c[column["extra"]]
	missed[key] += c[column["missed"]]
	offered[key] += calls
	n = split(c[column["histogram_ns"]], bucket, " ")
	for (i = 1; i <= n; i++) {
		split(bucket[i], b, ":")
		if (!((key, b[1]) in count))
			values[key, ++n_values[key]] = b[1] + 0
		count[key, b[1]] += b[2]
		total[key] += b[2]
	}
}

# ---------------------------------------------------------------- figures

function sort(a, n,    i, j, x) {
	for (i = 2; i <= n; i++) {
		x = a[i]
		for (j = i - 1; j > 0 && a[j] > x; j--)
			a[j + 1] = a[j]
		a[j + 1] = x
	}
}

# The median over the rounds; sets least and most.
function middle(a, n) {
	sort(a, n)
	least = a[1]; most = a[n]
	return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}

function figure(row, peer, field,    a, n, r) {
	for (r = 1; r <= rounds[row]; r++)
		if ((row, peer, field, r) in value)
			a[++n] = value[row, peer, field, r]
	return n ? middle(a, n) : ""
}

# What `who` has of `field` in the measure of the peer's `of`.
function ratio(row, who, field, peer, of,    a, n, r, x) {
	for (r = 1; r <= rounds[row]; r++) {
		x = value[row, peer, of, r]
		if (((row, who, field, r) in value) && x > 0)
			a[++n] = value[row, who, field, r] / x
	}
	return n ? middle(a, n) : ""
}

# 3 significant digits.
function short(x) {
	if (x == "")
		return "-"
	if (x >= 100)
		return sprintf("%.0f", x)
	if (x >= 10)
		return sprintf("%.1f", x)
	return x >= 0.1 || x == 0 ? sprintf("%.2f", x) : sprintf("%.3f", x)
}

function latency(row, peer, field,    x) {
	x = figure(row, peer, field)
	return x > 0 ? short(x) : "-"
}

# Splits FIELD[/PEER[.FIELD]]<=NUMBER and judges it: sets t_text, t_found,
# t_spread, t_own (what the peer itself has, where that is not 1) and t_good (1, 0,
# or "" when there is nothing to judge).
function judge(row, target,    op, left, limit, peer, of, at, x) {
	op = index(target, ">=") ? ">=" : "<="
	at = index(target, op)
	left = substr(target, 1, at - 1)
	limit = substr(target, at + 2) + 0
	peer = of = t_own = ""
	if ((at = index(left, "/"))) {
		peer = substr(left, at + 1)
		left = of = substr(left, 1, at - 1)
		if ((at = index(peer, "."))) {
			of = substr(peer, at + 1)
			peer = substr(peer, 1, at - 1)
		}
		if (of != left)
			t_own = short(ratio(row, peer, left, peer, of))
		x = ratio(row, "svc", left, peer, of)
		t_text = name(left) " : " peer (of == left ? "" : "'s " name(of))
	} else {
		x = figure(row, "svc", left)
		t_text = name(left)
	}
	t_text = t_text " " op " " limit unit(left, peer)
	t_found = short(x)
	t_spread = x == "" || rounds[row] == 1 ? "" : short(least) "-" short(most)
	t_good = x == "" ? "" : (op == ">=" ? x >= limit : x <= limit)
}

function name(field) { return field in names ? names[field] : field }

function unit(field, peer) {
	return peer == "" && field in units ? " " units[field] : ""
}

# -------------------------------------------------------------- the tables

function paint(text, how) {
	return colour ? "\033[" how "m" text "\033[0m" : text
}

# One line of a table from cell[1..n]; the first `left` cells stand left.
function line(n, left, widths,    i, w, text, w_n) {
	w_n = split(widths, w, " ")
	text = ""
	for (i = 1; i <= n; i++) {
		if (format == "markdown")
			text = text "| " cell[i] " "
		else if (i <= left)
			text = text sprintf("%-" w[i] "s", cell[i])
		else
			text = text sprintf("%" w[i] "s", cell[i])
	}
	return format == "markdown" ? text "|" : text
}

function heading(n, left, widths,    i, text) {
	if (format != "markdown") {
		print paint(line(n, left, widths), 1)
		return
	}
	print line(n, left, widths)
	for (i = 1; i <= n; i++)
		text = text "|---"
	print text "|"
}

function title(text) {
	print ""
	print format == "markdown" ? "**" text "**" : paint(text, 1)
	if (format == "markdown")
		print ""
}

function cells(text,    i, n) {
	n = split(text, cell, "|")
	for (i = 1; i <= n; i++)
		cell[i] = trim(cell[i])
	return n
}

function main_table(    i, row, n, p, list, t, good, all, x, widths) {
	title("svc: calls/s, their ratio to each peer, latency in us, CPU in ms " \
	    "for 1,000 calls of both sides, MiB of the server")
	widths = "43 10 7 12 7 7 7 7 8 8 8 8 6 8"
	n = cells("work|svc|: raw|min-max|: nng|: grpc|: nats|: nginx|p50|p99|" \
	    "p999|CPU|MiB|targets")
	heading(n, 1, widths)
	for (i = 1; i <= n_rows; i++) {
		row = rows[i]
		if (!((row, "svc") in have))
			continue
		good = all = 0
		list = split(targets[row], t, " ")
		for (p = 1; p <= list; p++) {
			judge(row, t[p])
			all += t_good != ""
			good += t_good == 1
		}
		cell[1] = work[row] (missed[row, "svc"] > 0 ? " (overloaded)" : "")
		cell[2] = sprintf("%d", figure(row, "svc", "rps"))
		x = ratio(row, "svc", "rps", "raw", "rps")
		cell[3] = short(x)
		cell[4] = x == "" ? "" : short(least) "-" short(most)
		cell[5] = short(ratio(row, "svc", "rps", "nng", "rps"))
		cell[6] = short(ratio(row, "svc", "rps", "grpc", "rps"))
		cell[7] = short(ratio(row, "svc", "rps", "nats", "rps"))
		cell[8] = short(ratio(row, "svc", "rps", "nginx", "rps"))
		cell[9] = latency(row, "svc", "p50")
		cell[10] = latency(row, "svc", "p99")
		cell[11] = latency(row, "svc", "p999")
		cell[12] = special[row] ? "-" : latency(row, "svc", "cpu")
		cell[13] = latency(row, "svc", "rss")
		cell[14] = all == 0 ? "" : good " of " all
		print paint(line(14, 1, widths), all > good ? 31 : all > 0 ? 32 : 0)
	}
}

function target_table(    i, j, n, list, t, row, widths, verdict) {
	title("targets")
	widths = "43 28 10 14 10 8"
	n = cells("work|target|found|min-max|peer's own|")
	heading(n, 2, widths)
	for (i = 1; i <= n_rows; i++) {
		row = rows[i]
		list = split(targets[row], t, " ")
		for (j = 1; j <= list && row in rounds; j++) {
			judge(row, t[j])
			cell[1] = work[row]; cell[2] = t_text
			cell[3] = t_found; cell[4] = t_spread
			cell[5] = t_own
			cell[6] = t_good == "" ? "absent" : t_good ? "pass" : "miss"
			print paint(line(6, 2, widths),
			    t_good == "" ? 33 : t_good ? 32 : 31)
		}
	}
}

function peer_table(    i, j, n, row, peer, widths) {
	title("all contestants")
	widths = "43 8 12 10 10 10 10 8"
	n = cells("work|peer|calls/s|p50|p99|p999|CPU|MiB")
	heading(n, 2, widths)
	for (i = 1; i <= n_rows; i++) {
		row = rows[i]
		for (j = 1; j <= n_peers; j++) {
			peer = peers[j]
			if (!((row, peer) in have))
				continue
			cell[1] = work[row]
			cell[2] = peer
			cell[3] = sprintf("%d", figure(row, peer, "rps"))
			cell[4] = latency(row, peer, "p50")
			cell[5] = latency(row, peer, "p99")
			cell[6] = latency(row, peer, "p999")
			cell[7] = special[row] ? "-" : latency(row, peer, "cpu")
			cell[8] = latency(row, peer, "rss")
			print line(8, 2, widths)
			if (missed[row, peer] > 0)
				printf "%s: %s was owed %d calls that it never " \
				    "sent\n", work[row], peer, missed[row, peer]
		}
	}
}

function absent_table(    i, key, part, n, list, seen) {
	for (i = 1; i <= n_absent; i++) {
		split(absent[i], part, "|")
		key = part[2] ": " part[3]
		if (!(key in seen))
			list[++n] = key
		seen[key] = seen[key] (seen[key] == "" ? "" : ", ") part[1]
	}
	if (n == 0)
		return
	title("not measured, and in which rows")
	for (i = 1; i <= n; i++)
		printf "%s%s: %s\n", format == "markdown" ? "- " : "", list[i],
		    seen[list[i]]
}

# ---------------------------------------------------------------- the plot

function log10(x) { return log(x) / log(10) }

function tag(text) { print text }

# Nines of a percentile to a place on the axis: 0 % left, 99.99 % right. `last` is
# the last percentile that is known.
function x_of(part) {
	part = part > last ? last : part
	part = part > 0.9999 ? 0.9999 : part
	return left + width * -log10(1 - part) / 4
}

function y_of(us) {
	return top + height * (1 - (log10(us) - low) / (high - low))
}

function text_at(x, y, text, more) {
	tag(sprintf("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>", x, y, more, text))
}

function curve(key, peer,    a, i, n, below, y, us) {
	n = n_values[key]
	for (i = 1; i <= n; i++)
		a[i] = values[key, i]
	sort(a, n)
	# It ends where one call in all that were seen was slower.
	last = 1 - 1 / total[key]
	# In pieces: some awks print no long texts at once.
	printf "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" " \
	    "stroke-linejoin=\"round\" d=\"", ink[peer], peer == "svc" ? 3 : 1.8
	for (i = 1; i <= n && below / total[key] < last; i++) {
		us = a[i] / 1000
		y = y_of(us > 0.01 ? us : 0.01)
		printf "%s%.1f,%.1f L", i == 1 ? "M" : "L", \
		    x_of(below / total[key]), y
		below += count[key, sprintf("%d", a[i])]
		printf "%.1f,%.1f ", x_of(below / total[key]), y
	}
	print "\"/>"
}

# The range of all latencies of a row, in whole powers of ten.
function range(row,    j, i, key, v) {
	low = 9; high = -9
	for (j = 1; j <= n_peers; j++) {
		key = row SUBSEP peers[j]
		for (i = 1; i <= n_values[key]; i++) {
			v = values[key, i] / 1000
			v = log10(v > 0.01 ? v : 0.01)
			if (v < low) low = v
			if (v > high) high = v
		}
	}
	low = int(low + 10) - 10
	high = int(high + 10) - 9
}

function panel(row,    e, m, y, j, key, nines, share, i) {
	range(row)
	text_at(left, top - 14, work[row],
	    "font-size=\"15\" font-weight=\"600\" fill=\"#222\"")
	for (e = low; e <= high; e++) {
		for (m = 1; m < 10 && (e < high || m == 1); m++) {
			y = y_of(m * 10 ^ e)
			tag(sprintf("<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" " \
			    "y2=\"%.1f\" stroke=\"%s\"/>", left, left + width, y, y,
			    m == 1 ? "#c8c8c8" : "#f0f0f0"))
		}
		text_at(left - 8, y_of(10 ^ e) + 4, duration(10 ^ e),
		    "text-anchor=\"end\" class=\"tick\"")
	}
	nines = split("0 0.5 0.9 0.99 0.999 0.9999", share, " ")
	last = 1
	for (i = 1; i <= nines; i++) {
		tag(sprintf("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" " \
		    "stroke=\"#d8d8d8\"/>", x_of(share[i]), x_of(share[i]), top,
		    top + height))
		text_at(x_of(share[i]), top + height + 18, share[i] * 100 " %",
		    "text-anchor=\"middle\" class=\"tick\"")
	}
	for (j = n_peers; j >= 1; j--) {
		key = row SUBSEP peers[j]
		if (total[key] > 0)
			curve(key, peers[j])
	}
	text_at(left + width / 2, top + height + 38, "share of the calls that " \
	    "took at most so long", "text-anchor=\"middle\" class=\"axis\"")
	text_at(0, 0, "latency, log scale", sprintf("text-anchor=\"middle\" " \
	    "class=\"axis\" transform=\"translate(%d,%d) rotate(-90)\"",
	    left - 62, top + height / 2))
}

function duration(us) {
	if (us >= 1e6)
		return us / 1e6 " s"
	if (us >= 1000)
		return us / 1000 " ms"
	return us >= 1 ? us " us" : us * 1000 " ns"
}

function plot(    i, j, n, row, list, key, full_width, full_height, x, shown) {
	split("#d1242f #222222 #e08a1e #1a7f37 #0969da #8250df #0f8f8f",
	    colours, " ")
	for (j = 1; j <= n_peers; j++)
		ink[peers[j]] = colours[j]
	for (i = 1; i <= n_rows; i++) {
		if (!plotted[rows[i]] || !(rows[i] in rounds))
			continue
		list[++n] = rows[i]
		for (j = 1; j <= n_peers; j++)
			if (total[rows[i], peers[j]] > 0)
				shown[peers[j]] = 1
	}
	width = 460; height = 300
	full_width = n > 1 ? 1200 : 620
	full_height = 90 + 410 * int((n + 1) / 2)
	tag("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" full_width \
	    "\" height=\"" full_height "\" viewBox=\"0 0 " full_width " " \
	    full_height "\" font-family=\"sans-serif\">")
	tag("<title>Latency of calls by percentile</title>")
	tag("<style>.tick{font-size:12px;fill:#555}.axis{font-size:13px;" \
	    "fill:#333}</style>")
	tag("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>")
	text_at(40, 36, "Latency of calls by percentile",
	    "font-size=\"20\" font-weight=\"700\" fill=\"#111\"")
	x = 40
	for (j = 1; j <= n_peers; j++) {
		if (!(peers[j] in shown))
			continue
		tag(sprintf("<line x1=\"%d\" x2=\"%d\" y1=\"60\" y2=\"60\" " \
		    "stroke=\"%s\" stroke-width=\"%s\"/>", x, x + 26,
		    ink[peers[j]], peers[j] == "svc" ? 4 : 2.5))
		text_at(x + 32, 65, label(peers[j]), "font-size=\"14\" fill=\"#222\"")
		x += 32 + 8.2 * length(label(peers[j])) + 24
	}
	for (i = 1; i <= n; i++) {
		left = 110 + 585 * ((i - 1) % 2)
		top = 122 + 410 * int((i - 1) / 2)
		panel(list[i])
	}
	tag("</svg>")
}

function label(peer) { return peer in labels ? labels[peer] : peer }

END {
	if (format == "svg") {
		plot()
		exit
	}
	main_table()
	target_table()
	peer_table()
	absent_table()
}
