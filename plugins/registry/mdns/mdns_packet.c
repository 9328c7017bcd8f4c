/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_packet.h"

#include <string.h>

#define HEADER_LEN 12
#define LABEL_MAX 63
#define POINTER_MAX 0x3fff

static uint16_t
get16(const uint8_t *p)
{
	return (uint16_t)((unsigned)p[0] << 8 | p[1]);
}

static uint32_t
get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static bool
label_add(struct mdns_name *name, size_t *n, const uint8_t *label, size_t len)
{
	size_t dot = *n > 0 ? 1 : 0;
	if (*n + dot + len >= MDNS_NAME_SIZE)
		return false;
	if (dot != 0)
		name->text[(*n)++] = '.';
	for (size_t i = 0; i < len; i++) {
		if (label[i] <= ' ' || label[i] == '.' || label[i] == 0x7f)
			name->plain = false;
		name->text[(*n)++] = (char)label[i];
	}
	return true;
}

/* Reads the name at *at and moves *at behind it. Every pointer has to lead
 * before the part it ends, so that a loop is impossible. */
static bool
name_read(const uint8_t *data, size_t len, size_t *at, struct mdns_name *name)
{
	size_t pos = *at, part = *at, n = 0;
	bool jumped = false;
	name->plain = true;
	for (;;) {
		if (pos >= len)
			return false;
		size_t byte = data[pos];
		if (byte == 0) {
			if (!jumped)
				*at = pos + 1;
			break;
		}
		if ((byte & 0xc0) == 0xc0) {
			if (len - pos < 2)
				return false;
			size_t to = (byte & 0x3f) << 8 | data[pos + 1];
			if (to >= part)
				return false;
			if (!jumped)
				*at = pos + 2;
			jumped = true;
			pos = part = to;
			continue;
		}
		if (byte > LABEL_MAX || len - pos - 1 < byte)
			return false;
		if (!label_add(name, &n, data + pos + 1, byte))
			return false;
		pos += 1 + byte;
	}
	name->text[n] = '\0';
	return true;
}

bool
mdns_read(struct mdns_reader *reader, const void *data, size_t len)
{
	const uint8_t *p = data;
	memset(reader, 0, sizeof(*reader));
	if (len < HEADER_LEN)
		return false;
	reader->data = p;
	reader->len = len;
	reader->at = HEADER_LEN;
	struct mdns_header *h = &reader->header;
	h->id = get16(p);
	h->flags = get16(p + 2);
	h->n_questions = get16(p + 4);
	h->n_answers = get16(p + 6);
	h->n_authorities = get16(p + 8);
	h->n_additionals = get16(p + 10);
	reader->questions_left = h->n_questions;
	reader->records_left =
	    (uint32_t)h->n_answers + h->n_authorities + h->n_additionals;
	return true;
}

bool
mdns_read_question(
    struct mdns_reader *reader, struct mdns_question *ret_question)
{
	if (reader->bad || reader->questions_left == 0)
		return false;
	if (!name_read(
		reader->data, reader->len, &reader->at, &ret_question->name) ||
	    reader->len - reader->at < 4) {
		reader->bad = true;
		return false;
	}
	ret_question->type = get16(reader->data + reader->at);
	ret_question->class = get16(reader->data + reader->at + 2);
	reader->at += 4;
	reader->questions_left--;
	return true;
}

/* The names inside the data may point anywhere before themselves, but they
 * have to end where the data ends. */
static bool
record_names(const struct mdns_reader *reader, size_t at, struct mdns_rr *rr)
{
	size_t end = at + rr->len;
	if (rr->type == MDNS_TYPE_SRV) {
		if (rr->len < 7)
			return false;
		rr->priority = get16(reader->data + at);
		rr->weight = get16(reader->data + at + 2);
		rr->port = get16(reader->data + at + 4);
		at += 6;
	} else if (rr->type != MDNS_TYPE_PTR) {
		return true;
	}
	return name_read(reader->data, end, &at, &rr->target) && at == end;
}

bool
mdns_read_record(struct mdns_reader *reader, struct mdns_rr *ret_record)
{
	struct mdns_question skipped;
	while (mdns_read_question(reader, &skipped))
		;
	if (reader->bad || reader->records_left == 0)
		return false;
	struct mdns_rr *rr = ret_record;
	reader->bad = true;
	if (!name_read(reader->data, reader->len, &reader->at, &rr->name) ||
	    reader->len - reader->at < 10)
		return false;
	const uint8_t *p = reader->data + reader->at;
	rr->type = get16(p);
	rr->class = get16(p + 2);
	rr->ttl = get32(p + 4);
	rr->len = get16(p + 8);
	rr->data = p + 10;
	rr->priority = rr->weight = rr->port = 0;
	rr->target.text[0] = '\0';
	rr->target.plain = false;
	reader->at += 10;
	if (reader->len - reader->at < rr->len ||
	    !record_names(reader, reader->at, rr))
		return false;
	reader->at += rr->len;
	const struct mdns_header *h = &reader->header;
	if (reader->records_left >
	    (uint32_t)h->n_authorities + h->n_additionals)
		rr->section = MDNS_ANSWER;
	else if (reader->records_left > h->n_additionals)
		rr->section = MDNS_AUTHORITY;
	else
		rr->section = MDNS_ADDITIONAL;
	reader->records_left--;
	reader->bad = false;
	return true;
}

/* --------------------------------------------------------------- the same */

static unsigned char
lower(char c)
{
	return (unsigned char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
}

bool
mdns_name_same(const char *a, const char *b)
{
	while (*a != '\0' && lower(*a) == lower(*b))
		a++, b++;
	return *a == '\0' && *b == '\0';
}

static uint64_t
hash_byte(uint64_t h, unsigned char byte)
{
	return (h ^ byte) * UINT64_C(0x100000001b3);
}

static uint64_t
hash_name(uint64_t h, const char *name)
{
	for (; *name != '\0'; name++)
		h = hash_byte(h, lower(*name));
	return hash_byte(h, 0);
}

static uint64_t
hash_number(uint64_t h, unsigned number)
{
	return hash_byte(hash_byte(h, number >> 8 & 0xff), number & 0xff);
}

uint64_t
mdns_record_hash(const struct mdns_record *record)
{
	const uint8_t *data = record->data;
	uint64_t h = hash_name(UINT64_C(0xcbf29ce484222325), record->name);
	h = hash_number(h, record->type);
	if (record->type == MDNS_TYPE_SRV) {
		h = hash_number(h, record->priority);
		h = hash_number(h, record->weight);
		h = hash_number(h, record->port);
	}
	if (record->target != NULL)
		return hash_name(h, record->target);
	for (size_t i = 0; i < record->len; i++)
		h = hash_byte(h, data[i]);
	return h;
}

uint64_t
mdns_rr_hash(const struct mdns_rr *rr)
{
	bool named = rr->type == MDNS_TYPE_PTR || rr->type == MDNS_TYPE_SRV;
	struct mdns_record record = {.name = rr->name.text,
	    .type = rr->type,
	    .target = named ? rr->target.text : NULL,
	    .priority = rr->priority,
	    .weight = rr->weight,
	    .port = rr->port,
	    .data = rr->data,
	    .len = rr->len};
	return mdns_record_hash(&record);
}

/* ---------------------------------------------------------------- writing */

static void
put(struct mdns_writer *writer, const void *data, size_t len)
{
	if (len > sizeof(writer->data) - writer->len) {
		writer->failed = SVC_E_EXHAUSTED;
		return;
	}
	if (len > 0)
		memcpy(writer->data + writer->len, data, len);
	writer->len += len;
}

static void
put8(struct mdns_writer *writer, size_t value)
{
	const uint8_t byte = (uint8_t)value;
	put(writer, &byte, 1);
}

static void
put16(struct mdns_writer *writer, unsigned value)
{
	put8(writer, value >> 8);
	put8(writer, value & 0xff);
}

static void
put32(struct mdns_writer *writer, uint32_t value)
{
	put16(writer, value >> 16);
	put16(writer, value & 0xffff);
}

static void
set16(struct mdns_writer *writer, size_t at, size_t value)
{
	if (writer->failed != SVC_OK)
		return;
	writer->data[at] = (uint8_t)(value >> 8);
	writer->data[at + 1] = (uint8_t)value;
}

/* Whether the name that was written at `at` is this one. */
static bool
name_is(const uint8_t *data, size_t at, const char *name)
{
	for (;;) {
		size_t len = data[at];
		if (len >= 0xc0) {
			at = (len & 0x3f) << 8 | data[at + 1];
			continue;
		}
		if (len == 0)
			return *name == '\0';
		if (strncmp(name, (const char *)data + at + 1, len) != 0 ||
		    (name[len] != '.' && name[len] != '\0'))
			return false;
		name += len + (name[len] == '.');
		at += 1 + len;
	}
}

/* Where this very name was written before; 0 for nowhere. */
static unsigned
name_find(const struct mdns_writer *writer, const char *name)
{
	for (size_t i = 0; i < writer->n_names; i++)
		if (name_is(writer->data, writer->names[i], name))
			return writer->names[i];
	return 0;
}

static void
name_write(struct mdns_writer *writer, const char *name)
{
	const size_t max = sizeof(writer->names) / sizeof(writer->names[0]);
	/* Labels become known only when the whole name stands. */
	uint16_t fresh[sizeof(writer->names) / sizeof(writer->names[0])];
	size_t n_fresh = 0;
	if (strlen(name) >= MDNS_NAME_SIZE)
		writer->failed = SVC_E_INVAL;
	while (*name != '\0' && writer->failed == SVC_OK) {
		unsigned known = name_find(writer, name);
		if (known != 0) {
			put16(writer, 0xc000 | known);
			goto out;
		}
		size_t len = strcspn(name, ".");
		if (len == 0 || len > LABEL_MAX) {
			writer->failed = SVC_E_INVAL;
			return;
		}
		if (writer->len <= POINTER_MAX && n_fresh < max)
			fresh[n_fresh++] = (uint16_t)writer->len;
		put8(writer, len);
		put(writer, name, len);
		name += len;
		if (name[0] == '.') {
			name++;
			if (*name == '\0')
				writer->failed = SVC_E_INVAL;
		}
	}
	put8(writer, 0);
out:
	for (size_t i = 0; i < n_fresh && writer->n_names < max; i++)
		writer->names[writer->n_names++] = fresh[i];
}

void
mdns_write(struct mdns_writer *writer, uint16_t id, uint16_t flags)
{
	memset(writer->data, 0, HEADER_LEN);
	writer->len = HEADER_LEN;
	writer->failed = SVC_OK;
	writer->n_names = 0;
	writer->header = (struct mdns_header){.id = id, .flags = flags};
}

void
mdns_write_question(
    struct mdns_writer *writer, const char *name, uint16_t type, uint16_t class)
{
	name_write(writer, name);
	put16(writer, type);
	put16(writer, class);
	writer->header.n_questions++;
}

void
mdns_write_record(struct mdns_writer *writer, enum mdns_section section,
    const struct mdns_record *record, bool flush)
{
	unsigned class = MDNS_CLASS_IN;
	if (flush && record->unique)
		class |= MDNS_CLASS_TOP;
	name_write(writer, record->name);
	put16(writer, record->type);
	put16(writer, class);
	put32(writer, record->ttl);
	put16(writer, 0);
	size_t at = writer->len;
	if (record->type == MDNS_TYPE_SRV) {
		put16(writer, record->priority);
		put16(writer, record->weight);
		put16(writer, record->port);
	}
	if (record->target != NULL)
		name_write(writer, record->target);
	put(writer, record->data, record->len);
	set16(writer, at - 2, writer->len - at);
	if (section == MDNS_ANSWER)
		writer->header.n_answers++;
	else if (section == MDNS_AUTHORITY)
		writer->header.n_authorities++;
	else
		writer->header.n_additionals++;
}

svc_err
mdns_write_end(struct mdns_writer *writer)
{
	const struct mdns_header *h = &writer->header;
	set16(writer, 0, h->id);
	set16(writer, 2, h->flags);
	set16(writer, 4, h->n_questions);
	set16(writer, 6, h->n_answers);
	set16(writer, 8, h->n_authorities);
	set16(writer, 10, h->n_additionals);
	return writer->failed;
}
