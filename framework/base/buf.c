/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/buf.h>

#include "text_private.h"

#include <stdio.h>
#include <string.h>

#define FIRST_SIZE 64

void
svc_buf_init(struct svc_buf *buf, size_t max)
{
	*buf = (struct svc_buf){.max = max};
}

void
svc_buf_fini(struct svc_buf *buf)
{
	svc_mem_free(buf->data);
	svc_buf_init(buf, buf->max);
}

static void
terminate(struct svc_buf *buf)
{
	if (buf->data != NULL)
		buf->data[buf->len] = 0;
}

void
svc_buf_clear(struct svc_buf *buf)
{
	buf->len = 0;
	buf->failed = SVC_OK;
	terminate(buf);
}

static svc_err
fail(struct svc_buf *buf, svc_err err)
{
	if (buf->failed == SVC_OK)
		buf->failed = err;
	return err;
}

svc_err
svc_buf_reserve(struct svc_buf *buf, size_t more)
{
	if (more > buf->max - buf->len)
		return fail(buf, SVC_E_EXHAUSTED);
	/* `cap` counts what was allocated, so there is room for the zero
	 * byte as long as it is above len. */
	if (buf->cap - buf->len > more)
		return SVC_OK;
	size_t want = buf->len + more;
	size_t size = buf->cap < FIRST_SIZE ? FIRST_SIZE : buf->cap;
	while (size <= want && size <= SIZE_MAX / 2)
		size *= 2;
	if (size > buf->max)
		size = buf->max < SIZE_MAX ? buf->max + 1 : SIZE_MAX;
	if (size <= want)
		return fail(buf, SVC_E_NOMEM);
	uint8_t *data = svc_mem_realloc(buf->data, size);
	if (data == NULL)
		return fail(buf, SVC_E_NOMEM);
	buf->data = data;
	buf->cap = size;
	terminate(buf);
	return SVC_OK;
}

svc_err
svc_buf_append(struct svc_buf *buf, const void *data, size_t len)
{
	svc_err err = svc_buf_reserve(buf, len);
	if (err != SVC_OK)
		return err;
	if (len > 0)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	terminate(buf);
	return SVC_OK;
}

svc_err
svc_buf_puts(struct svc_buf *buf, const char *text)
{
	return svc_buf_append(buf, text, strlen(text));
}

svc_err
svc_buf_putc(struct svc_buf *buf, char c)
{
	return svc_buf_append(buf, &c, 1);
}

svc_err
svc_buf_printf(struct svc_buf *buf, const char *format, ...)
{
	svc_err err = svc_buf_reserve(buf, 0);
	/* At most twice: the first try tells how much room it takes. */
	while (err == SVC_OK) {
		size_t room = buf->cap - buf->len;
		va_list args;
		va_start(args, format);
		int wrote =
		    vsnprintf((char *)buf->data + buf->len, room, format, args);
		va_end(args);
		if (wrote < 0) {
			err = fail(buf, SVC_E_EXHAUSTED);
		} else if ((size_t)wrote < room) {
			buf->len += (size_t)wrote;
			return SVC_OK;
		} else {
			err = svc_buf_reserve(buf, (size_t)wrote);
		}
	}
	terminate(buf);
	return err;
}

static void
json_escape(struct svc_buf *buf, char c)
{
	static const char from[] = "\"\\\b\f\n\r\t";
	static const char to[] = "\"\\bfnrt";
	const char *short_form = c != '\0' ? strchr(from, c) : NULL;
	if (short_form != NULL)
		svc_buf_printf(buf, "\\%c", to[short_form - from]);
	else
		svc_buf_printf(buf, "\\u%04x", (unsigned)(uint8_t)c);
}

svc_err
svc_buf_json_string(struct svc_buf *buf, const char *text, size_t len)
{
	svc_err before = buf->failed;
	size_t start = buf->len;
	buf->failed = SVC_OK;
	svc_buf_putc(buf, '"');
	size_t done = 0, i = 0;
	while (i < len && buf->failed == SVC_OK) {
		char c = text[i];
		size_t size = svc_text_char(text + i, len - i);
		if (size > 0 && (uint8_t)c >= 0x20 && c != '"' && c != '\\') {
			i += size;
			continue;
		}
		svc_buf_append(buf, text + done, i - done);
		if (size == 0)
			svc_buf_puts(buf, "\xef\xbf\xbd");
		else
			json_escape(buf, c);
		done = ++i;
	}
	if (done < i)
		svc_buf_append(buf, text + done, i - done);
	svc_buf_putc(buf, '"');
	svc_err err = buf->failed;
	if (err != SVC_OK) {
		buf->len = start;
		terminate(buf);
	}
	if (before != SVC_OK)
		buf->failed = before;
	return err;
}

void
svc_buf_consume(struct svc_buf *buf, size_t n)
{
	if (n > buf->len)
		n = buf->len;
	if (n == 0)
		return;
	buf->len -= n;
	memmove(buf->data, buf->data + n, buf->len);
	terminate(buf);
}

char *
svc_buf_take(struct svc_buf *buf, size_t *ret_len)
{
	char *text = NULL;
	/* Room for nothing is still room for the zero byte. */
	if (svc_buf_reserve(buf, 0) == SVC_OK && buf->failed != SVC_E_NOMEM) {
		text = (char *)buf->data;
		if (ret_len != NULL)
			*ret_len = buf->len;
		text[buf->len] = '\0';
		buf->data = NULL;
	}
	svc_buf_fini(buf);
	return text;
}
