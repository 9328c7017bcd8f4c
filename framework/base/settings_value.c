/* SPDX-License-Identifier: Apache-2.0 */
/* What texts mean as values, and how values are shown. None of it depends on
 * the locale: a config file means the same everywhere. */
#include "settings_private.h"

#include "text_private.h"

#include <svc/log.h>

#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers */

/* Reads digits at *at into *ret, and moves *at behind them. */
static bool
read_digits(const char **at, int64_t *ret)
{
	const char *p = *at;
	int64_t number = 0;
	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, *p - '0', &number))
			return false;
	*at = p;
	*ret = number;
	return true;
}

static bool
read_int(const char *text, int64_t *ret)
{
	bool negative = *text == '-';
	text += negative;
	if (!read_digits(&text, ret) || *text != '\0')
		return false;
	if (negative)
		*ret = -*ret;
	return true;
}

static bool
read_size(const char *text, int64_t *ret)
{
	if (!read_digits(&text, ret))
		return false;
	int64_t unit = 1;
	switch (svc_text_lower(*text)) {
	case 'k':
		unit = 1024;
		break;
	case 'm':
		unit = 1024 * 1024;
		break;
	case 'g':
		unit = 1024 * 1024 * 1024;
		break;
	}
	if (unit > 1)
		text++;
	return *text == '\0' && !__builtin_mul_overflow(*ret, unit, ret);
}

static bool
read_real(const char *text, double *ret)
{
	/* strtod would take leading blanks, hexadecimals, "inf" and "nan". */
	if (text[0] == '\0' || text[strspn(text, "0123456789.eE+-")] != '\0')
		return false;
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (c == (locale_t)0)
		return false;
	char *end;
	*ret = strtod_l(text, &end, c);
	freelocale(c);
	return *end == '\0' && isfinite(*ret);
}

static bool
read_bool(const char *text, bool *ret)
{
	static const char *const words[2][4] = {
	    {"false", "no", "off", "0"},
	    {"true", "yes", "on", "1"},
	};
	for (int i = 0; i < 8; i++) {
		if (svc_text_same(text, words[i / 4][i % 4])) {
			*ret = i >= 4;
			return true;
		}
	}
	return false;
}

/* Durations */

static const struct unit {
	const char *name;
	int64_t ms;
} units[] = {
    {"ms", 1},
    {"s", 1000},
    {"m", 60 * 1000},
    {"h", 60 * 60 * 1000},
};

/* The length of a unit at *at, which is moved behind it; 0 for none. */
static int64_t
read_unit(const char **at)
{
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		size_t len = strlen(units[i].name);
		/* "ms" is first in the list, so "m" does not take its m. */
		if (strncmp(*at, units[i].name, len) == 0) {
			*at += len;
			return units[i].ms;
		}
	}
	return 0;
}

svc_err
svc_duration_parse(const char *text, int64_t unit_ms, int64_t *ret_ms)
{
	int64_t total = 0;
	bool first = true;
	const char *at = text;
	do {
		int64_t whole, part = 0, scale = 1;
		if (!read_digits(&at, &whole))
			return SVC_E_INVAL;
		if (*at == '.') {
			const char *dot = at++;
			if (!read_digits(&at, &part) || at - dot > 10)
				return SVC_E_INVAL;
			for (const char *p = dot + 1; p < at; p++)
				scale *= 10;
		}
		int64_t unit;
		if (first && *at == '\0')
			unit = unit_ms > 0 ? unit_ms : 1;
		else
			unit = read_unit(&at);
		if (unit == 0 || __builtin_mul_overflow(whole, unit, &whole) ||
		    __builtin_mul_overflow(part, unit, &part) ||
		    __builtin_add_overflow(total, whole, &total) ||
		    __builtin_add_overflow(total, part / scale, &total))
			return SVC_E_INVAL;
		first = false;
	} while (*at != '\0');
	*ret_ms = total;
	return SVC_OK;
}

static void
show_duration(int64_t ms, struct svc_buf *out)
{
	if (ms < 0) {
		svc_buf_printf(out, "%lld", (long long)ms);
		return;
	}
	if (ms < 1000 && ms > 0) {
		svc_buf_printf(out, "%dms", (int)ms);
		return;
	}
	int64_t hours = ms / (60 * 60 * 1000), minutes = ms / (60 * 1000) % 60;
	int seconds = (int)(ms / 1000 % 60), rest = (int)(ms % 1000);
	if (hours > 0)
		svc_buf_printf(out, "%lldh", (long long)hours);
	if (minutes > 0)
		svc_buf_printf(out, "%dm", (int)minutes);
	if (rest == 0) {
		if (seconds > 0 || ms == 0)
			svc_buf_printf(out, "%ds", seconds);
		return;
	}
	int digits = 3;
	for (; rest % 10 == 0; rest /= 10)
		digits--;
	svc_buf_printf(out, "%d.%0*ds", seconds, digits, rest);
}

static void
show_size(int64_t bytes, struct svc_buf *out)
{
	static const char letters[] = "kmg";
	int power = 0;
	while (power < 3 && bytes != 0 && bytes % 1024 == 0) {
		bytes /= 1024;
		power++;
	}
	svc_buf_printf(out, "%lld", (long long)bytes);
	if (power > 0)
		svc_buf_putc(out, letters[power - 1]);
}

static void
show_real(double number, struct svc_buf *out)
{
	/* The shortest text that reads back as the same number. */
	char text[40];
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, number);
		if (strtod(text, NULL) == number)
			break;
	}
	/* Whatever the locale has for a point becomes one. */
	const char *point = localeconv()->decimal_point;
	char *at = strstr(text, point);
	if (at == NULL) {
		svc_buf_puts(out, text);
		return;
	}
	svc_buf_append(out, text, (size_t)(at - text));
	svc_buf_putc(out, '.');
	svc_buf_puts(out, at + strlen(point));
}

/* Refusals */

static bool
names_secret(const char *name)
{
	return strcasestr(name, "password") != NULL ||
	       strcasestr(name, "token") != NULL ||
	       strcasestr(name, "secret") != NULL;
}

static bool
is_secret(const struct setting *setting)
{
	return names_secret(setting->is.name);
}

static svc_err
refuse_with(const struct setting *setting, const char *text,
    const char *problem, const char *between, const char *allowed,
    struct svc_error *err)
{
	char quoted[64];
	if (is_secret(setting))
		snprintf(quoted, sizeof(quoted), "its value");
	else
		svc_log_quote(text, strlen(text), quoted, sizeof(quoted));
	return svc_error_set(
	    err, SVC_E_INVAL, "%s %s%s%s", quoted, problem, between, allowed);
}

static svc_err
refuse(const struct setting *setting, const char *text, const char *problem,
    const char *allowed, struct svc_error *err)
{
	return refuse_with(setting, text, problem, "; allowed: ", allowed, err);
}

static svc_err
out_of_memory(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "out of memory");
}

static svc_err
check_choice(
    const struct setting *setting, const char *text, struct svc_error *err)
{
	const char *word, *at = setting->is.choices;
	char choice[64], problem[128] = "is not possible";
	size_t len, best = 0;
	bool near = false;
	if (at == NULL)
		return SVC_OK;
	struct svc_buf allowed;
	svc_buf_init(&allowed, sizeof(err->text));
	while ((word = svc_settings_word(&at, &len)) != NULL) {
		snprintf(choice, sizeof(choice), "%.*s", (int)len, word);
		if (strcmp(text, choice) == 0) {
			svc_buf_fini(&allowed);
			return SVC_OK;
		}
		svc_buf_printf(
		    &allowed, "%s%s", allowed.len > 0 ? ", " : "", choice);
		/* What is near a secret is one. */
		if (is_secret(setting) || !svc_text_nearer(text, choice, &best))
			continue;
		snprintf(problem, sizeof(problem),
		    "is not possible, did you mean \"%s\"?", choice);
		near = true;
	}
	svc_err failed = refuse_with(setting, text, problem,
	    near ? " Allowed: " : "; allowed: ", (const char *)allowed.data,
	    err);
	svc_buf_fini(&allowed);
	return failed;
}

static bool
is_bounded(const struct setting *setting)
{
	return setting->is.min != 0 || setting->is.max != 0;
}

/* With the bounds, written like the value itself. */
static svc_err
refuse_number(const struct setting *setting, const char *text,
    const char *problem, struct svc_error *err)
{
	int64_t min = setting->is.min, max = setting->is.max;
	struct svc_buf allowed;
	svc_buf_init(&allowed, sizeof(err->text));
	for (int i = 0; i < 2; i++) {
		int64_t bound = i == 0 ? min : max;
		if (i == 1)
			svc_buf_puts(&allowed, " to ");
		if (setting->is.kind == SVC_SETTING_DURATION)
			show_duration(bound, &allowed);
		else if (setting->is.kind == SVC_SETTING_SIZE)
			show_size(bound, &allowed);
		else
			svc_buf_printf(&allowed, "%lld", (long long)bound);
	}
	svc_err failed =
	    refuse(setting, text, problem, (const char *)allowed.data, err);
	svc_buf_fini(&allowed);
	return failed;
}

static svc_err
check_range(const struct setting *setting, const char *text, double number,
    struct svc_error *err)
{
	if (!is_bounded(setting) || (number >= (double)setting->is.min &&
					number <= (double)setting->is.max))
		return SVC_OK;
	return refuse_number(setting, text, "is out of range", err);
}

/* Assignment, by kind */

static svc_err
assign_text(
    const struct setting *setting, const char *text, struct svc_error *err)
{
	char **target = setting->is.target;
	char *copy = svc_mem_strdup(text);
	if (copy == NULL)
		return out_of_memory(err);
	svc_mem_free(*target);
	*target = copy;
	return SVC_OK;
}

/* The application may hold a text it was given before, so all are kept. */
static svc_err
assign_app_text(struct svc_settings *settings, const struct setting *setting,
    const char *text, struct svc_error *err)
{
	char **kept = svc_mem_realloc(
	    settings->kept, (settings->kept_count + 1) * sizeof(*kept));
	if (kept == NULL)
		return out_of_memory(err);
	settings->kept = kept;
	char *copy = svc_mem_strdup(text);
	if (copy == NULL)
		return out_of_memory(err);
	kept[settings->kept_count++] = copy;
	*(const char **)setting->is.target = copy;
	return SVC_OK;
}

static svc_err
assign_number(
    const struct setting *setting, const char *text, struct svc_error *err)
{
	int64_t number;
	bool good;
	const char *problem = "is no whole number";
	const char *allowed = "as in 3 or -5";
	char hint[96];
	switch (setting->is.kind) {
	case SVC_SETTING_DURATION:
		good = svc_duration_parse(text, setting->is.unit_ms, &number) ==
		       SVC_OK;
		problem = "is no duration";
		snprintf(hint, sizeof(hint),
		    "as in 500ms, 5s, 1m30s, 2h, or a number of %s",
		    setting->is.unit_ms == 1000 ? "seconds" : "milliseconds");
		allowed = hint;
		break;
	case SVC_SETTING_SIZE:
		good = read_size(text, &number);
		problem = "is no size";
		allowed = "a number of bytes, or as in 64k, 4m, 1g";
		break;
	default:
		good = read_int(text, &number);
		if (!good && is_bounded(setting))
			return refuse_number(setting, text, problem, err);
		break;
	}
	if (!good)
		return refuse(setting, text, problem, allowed, err);
	bool app = setting->is.kind == SVC_SETTING_APP_INT;
	if (app && (number < INT_MIN || number > INT_MAX))
		return refuse(setting, text, "is out of range",
		    "-2147483648 to 2147483647", err);
	svc_err failed = check_range(setting, text, (double)number, err);
	if (failed != SVC_OK)
		return failed;
	if (app)
		*(int *)setting->is.target = (int)number;
	else
		*(int64_t *)setting->is.target = number;
	return SVC_OK;
}

static svc_err
assign_real(
    const struct setting *setting, const char *text, struct svc_error *err)
{
	double number;
	if (!read_real(text, &number))
		return refuse(
		    setting, text, "is no number", "as in 2, 0.5 or 1e-3", err);
	svc_err failed = check_range(setting, text, number, err);
	if (failed == SVC_OK)
		*(double *)setting->is.target = number;
	return failed;
}

static svc_err
assign_pair(
    const struct setting *setting, const char *text, struct svc_error *err)
{
	struct svc_headers **target = setting->is.target;
	const char *equals = strchr(text, '=');
	if (equals == NULL || equals == text)
		return refuse(setting, text, "is no pair", "key=value", err);
	if (*target == NULL)
		*target = svc_headers_create();
	if (*target == NULL)
		return out_of_memory(err);
	switch (svc_headers_set_n(*target, text, (size_t)(equals - text),
	    equals + 1, strlen(equals + 1))) {
	case SVC_OK:
		return SVC_OK;
	case SVC_E_NOMEM:
		return out_of_memory(err);
	case SVC_E_EXHAUSTED:
		return refuse(
		    setting, text, "is one pair too many", "at most 256", err);
	default:
		return refuse(setting, text, "is no pair",
		    "a key of 1 to 255 printable ASCII characters without "
		    "space and ':', and a value of one line, at most 64k",
		    err);
	}
}

svc_err
svc_settings_assign(struct svc_settings *settings, struct setting *setting,
    const char *text, svc_setting_source source, struct svc_error *err)
{
	svc_err failed = check_choice(setting, text, err);
	if (failed != SVC_OK)
		return failed;
	switch (setting->is.kind) {
	case SVC_SETTING_TEXT:
		failed = assign_text(setting, text, err);
		break;
	case SVC_SETTING_APP_TEXT:
		failed = assign_app_text(settings, setting, text, err);
		break;
	case SVC_SETTING_BOOL:
		if (!read_bool(text, setting->is.target))
			failed = refuse(setting, text, "is neither yes nor no",
			    "true, false, yes, no, on, off, 1, 0", err);
		break;
	case SVC_SETTING_INT:
	case SVC_SETTING_DURATION:
	case SVC_SETTING_SIZE:
	case SVC_SETTING_APP_INT:
		failed = assign_number(setting, text, err);
		break;
	case SVC_SETTING_REAL:
		failed = assign_real(setting, text, err);
		break;
	case SVC_SETTING_PAIRS:
		failed = assign_pair(setting, text, err);
		break;
	}
	if (failed == SVC_OK)
		setting->is.source = source;
	return failed;
}

/* Showing */

static const char *
text_of(const struct setting *setting)
{
	if (setting->is.kind == SVC_SETTING_TEXT)
		return *(char **)setting->is.target;
	return *(const char **)setting->is.target;
}

static void
show(const struct setting *setting, struct svc_buf *out)
{
	const void *target = setting->is.target;
	const struct svc_headers *pairs;
	const char *text, *name;
	switch (setting->is.kind) {
	case SVC_SETTING_TEXT:
	case SVC_SETTING_APP_TEXT:
		text = text_of(setting);
		svc_buf_puts(out, text != NULL ? text : "");
		break;
	case SVC_SETTING_BOOL:
		svc_buf_puts(out, *(const bool *)target ? "true" : "false");
		break;
	case SVC_SETTING_INT:
		svc_buf_printf(
		    out, "%lld", (long long)*(const int64_t *)target);
		break;
	case SVC_SETTING_DURATION:
		show_duration(*(const int64_t *)target, out);
		break;
	case SVC_SETTING_SIZE:
		show_size(*(const int64_t *)target, out);
		break;
	case SVC_SETTING_REAL:
		show_real(*(const double *)target, out);
		break;
	case SVC_SETTING_APP_INT:
		svc_buf_printf(out, "%d", *(const int *)target);
		break;
	case SVC_SETTING_PAIRS:
		pairs = *(struct svc_headers *const *)target;
		for (size_t i = 0; svc_headers_at(pairs, i, &name, &text); i++)
			svc_buf_printf(out, "%s%s=%s", i > 0 ? "," : "", name,
			    names_secret(name) ? "***" : text);
		break;
	}
}

void
svc_settings_show(const struct setting *setting, struct svc_buf *out)
{
	size_t start = out->len;
	show(setting, out);
	if (is_secret(setting) && out->len > start) {
		out->len = start;
		svc_buf_puts(out, "***");
	}
}

void
svc_settings_show_json(const struct setting *setting, struct svc_buf *out)
{
	const void *target = setting->is.target;
	const struct svc_headers *pairs;
	const char *text, *name;
	if (is_secret(setting)) {
		svc_buf_puts(out, "\"***\"");
		return;
	}
	switch (setting->is.kind) {
	case SVC_SETTING_TEXT:
	case SVC_SETTING_APP_TEXT:
		text = text_of(setting);
		if (text == NULL)
			svc_buf_puts(out, "null");
		else
			svc_buf_json_string(out, text, strlen(text));
		break;
	case SVC_SETTING_DURATION:
		svc_buf_putc(out, '"');
		show_duration(*(const int64_t *)target, out);
		svc_buf_putc(out, '"');
		break;
	case SVC_SETTING_SIZE:
		svc_buf_printf(
		    out, "%lld", (long long)*(const int64_t *)target);
		break;
	case SVC_SETTING_REAL:
		if (isfinite(*(const double *)target))
			show_real(*(const double *)target, out);
		else
			svc_buf_puts(out, "null");
		break;
	case SVC_SETTING_PAIRS:
		pairs = *(struct svc_headers *const *)target;
		svc_buf_putc(out, '{');
		for (size_t i = 0; svc_headers_at(pairs, i, &name, &text);
		     i++) {
			svc_buf_puts(out, i > 0 ? "," : "");
			svc_buf_json_string(out, name, strlen(name));
			svc_buf_putc(out, ':');
			if (names_secret(name))
				text = "***";
			svc_buf_json_string(out, text, strlen(text));
		}
		svc_buf_putc(out, '}');
		break;
	case SVC_SETTING_BOOL:
	case SVC_SETTING_INT:
	case SVC_SETTING_APP_INT:
		show(setting, out);
		break;
	}
}
