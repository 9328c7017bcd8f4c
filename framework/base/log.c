/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `lock` guards the sink with its argument, and all limits; it is not held
 * while the sink runs.
 * `threshold` is read without it, so that a line nobody wants costs no more
 * than one comparison.
 */
#include <svc/log.h>

#include <svc/buf.h>
#include <svc/clock.h>

#include "text_private.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_TEXT 1024
#define MAX_LINE (8 * 1024)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static svc_log_sink sink;
static void *sink_arg;
static svc_log_level level_wanted = SVC_LOG_INFO;
/* The level wanted, or OFF as long as there is no sink. */
static atomic_int threshold = SVC_LOG_OFF;

static const char *const level_names[] = {
    "trace", "debug", "info", "warn", "error", "off"};

static void
set_threshold(void)
{
	atomic_store(
	    &threshold, (int)(sink != NULL ? level_wanted : SVC_LOG_OFF));
}

void
svc_log_set_sink(svc_log_sink new_sink, void *arg)
{
	pthread_mutex_lock(&lock);
	sink = new_sink;
	sink_arg = arg;
	set_threshold();
	pthread_mutex_unlock(&lock);
}

void
svc_log_default_sink(svc_log_sink new_sink, void *arg)
{
	pthread_mutex_lock(&lock);
	if (sink == NULL) {
		sink = new_sink;
		sink_arg = arg;
		set_threshold();
	}
	pthread_mutex_unlock(&lock);
}

void
svc_log_set_level(svc_log_level level)
{
	pthread_mutex_lock(&lock);
	level_wanted = level;
	set_threshold();
	pthread_mutex_unlock(&lock);
}

bool
svc_log_enabled(svc_log_level level)
{
	return level < SVC_LOG_OFF &&
	       (int)level >=
		   atomic_load_explicit(&threshold, memory_order_relaxed);
}

svc_err
svc_log_level_parse(const char *text, svc_log_level *ret_level)
{
	for (int i = SVC_LOG_TRACE; i <= SVC_LOG_OFF; i++) {
		if (svc_text_same(text, level_names[i])) {
			*ret_level = (svc_log_level)i;
			return SVC_OK;
		}
	}
	return SVC_E_INVAL;
}

static void SVC_PRINTF(3, 0)
    put(svc_log_level level, const char *id, const char *format, va_list args)
{
	pthread_mutex_lock(&lock);
	svc_log_sink to = sink;
	void *arg = sink_arg;
	pthread_mutex_unlock(&lock);
	if (to == NULL)
		return;

	char text[MAX_TEXT];
	int wanted = vsnprintf(text, sizeof(text), format, args);
	if (wanted < 0)
		text[0] = '\0';
	else if ((size_t)wanted >= sizeof(text))
		text[svc_text_cut(text, sizeof(text) - 1)] = '\0';
	svc_text_one_line(text);
	to(&(struct svc_log_line){.level = level,
	       .unix_ms = svc_now_unix_ms(),
	       .id = id,
	       .text = text},
	    arg);
}

void
svc_log(svc_log_level level, const char *id, const char *format, ...)
{
	if (!svc_log_enabled(level))
		return;
	va_list args;
	va_start(args, format);
	put(level, id, format, args);
	va_end(args);
}

void
svc_log_limited(struct svc_log_limit *limit, svc_log_level level,
    const char *id, const char *format, ...)
{
	if (!svc_log_enabled(level))
		return;
	int64_t second = svc_now_ms() / 1000 + 1; /* 0: none yet */
	unsigned left_out = 0;
	pthread_mutex_lock(&lock);
	if (limit->second != second) {
		limit->second = second;
		limit->written = 0;
		left_out = limit->left_out;
		limit->left_out = 0;
	}
	bool write = limit->written < SVC_LOG_BURST;
	if (write)
		limit->written++;
	else
		limit->left_out++;
	pthread_mutex_unlock(&lock);
	if (left_out > 0)
		svc_log(level, id, "%u more of these lines were left out",
		    left_out);
	if (!write)
		return;
	va_list args;
	va_start(args, format);
	put(level, id, format, args);
	va_end(args);
}

static void
format_time(int64_t unix_ms, char out[32])
{
	time_t seconds = (time_t)(unix_ms / 1000);
	struct tm tm;
	gmtime_r(&seconds, &tm);
	size_t len = strftime(out, 24, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + len, 32 - len, ".%03dZ", (int)(unix_ms % 1000));
}

/* A log that cannot be written has nowhere left to complain. */
static void
write_line(struct svc_buf *line)
{
	svc_buf_putc(line, '\n');
	if (line->failed == SVC_OK)
		while (write(STDERR_FILENO, line->data, line->len) < 0 &&
		       errno == EINTR)
			;
	svc_buf_fini(line);
}

void
svc_log_to_text(const struct svc_log_line *line, void *arg)
{
	static const char *const colours[] = {
	    "\033[2m", "\033[36m", "\033[32m", "\033[33m", "\033[31m"};
	(void)arg;
	char when[32];
	format_time(line->unix_ms, when);
	const char *no_color = getenv("NO_COLOR");
	bool colour =
	    (no_color == NULL || no_color[0] == '\0') && isatty(STDERR_FILENO);
	struct svc_buf out;
	svc_buf_init(&out, MAX_LINE);
	svc_buf_printf(&out, "%s %s%-5s%s %s: %s", when,
	    colour ? colours[line->level] : "", level_names[line->level],
	    colour ? "\033[0m" : "", line->id, line->text);
	write_line(&out);
}

static void
put_json(struct svc_buf *out, const char *before, const char *text)
{
	svc_buf_puts(out, before);
	svc_buf_json_string(out, text, strlen(text));
}

void
svc_log_to_json(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	char when[32];
	format_time(line->unix_ms, when);
	struct svc_buf out;
	svc_buf_init(&out, MAX_LINE);
	put_json(&out, "{\"time\":", when);
	put_json(&out, ",\"level\":", level_names[line->level]);
	put_json(&out, ",\"id\":", line->id);
	put_json(&out, ",\"text\":", line->text);
	svc_buf_putc(&out, '}');
	write_line(&out);
}

/* One byte or character of a quoted text; its length in `out`. */
static size_t
quote_one(const char *text, size_t len, char out[5], size_t *ret_taken)
{
	size_t size = svc_text_char(text, len);
	*ret_taken = size > 0 ? size : 1;
	char c = text[0];
	if (size == 0 || (uint8_t)c < 0x20 || c == 0x7f)
		return (size_t)snprintf(
		    out, 5, "\\x%02x", (unsigned)(uint8_t)c);
	size_t at = 0;
	if (c == '"' || c == '\\')
		out[at++] = '\\';
	memcpy(out + at, text, size);
	return at + size;
}

const char *
svc_log_quote(const void *text, size_t len, char *out, size_t out_size)
{
	/* What was cut shows by dots behind the quotes, where no text that is
	 * quoted can put them. */
	static const char end[] = "\"", cut[] = "\"...";
	if (out_size < sizeof(cut) + 1) {
		if (out_size > 0)
			out[0] = '\0';
		return out;
	}
	const char *from = text;
	len = len > 0 ? strnlen(from, len) : 0;
	size_t at = 0, safe = 1, i = 0;
	out[at++] = '"';
	while (i < len) {
		char piece[5];
		size_t taken;
		size_t size = quote_one(from + i, len - i, piece, &taken);
		if (at + size + sizeof(end) > out_size)
			break;
		memcpy(out + at, piece, size);
		at += size;
		i += taken;
		/* The longest beginning that leaves room for the dots. */
		if (at + sizeof(cut) <= out_size)
			safe = at;
	}
	if (i < len)
		memcpy(out + safe, cut, sizeof(cut));
	else
		memcpy(out + at, end, sizeof(end));
	return out;
}
