/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_PACKET_H
#define MDNS_PACKET_H

#include <svc/buf.h>

/**
 * The DNS message format as far as multicast DNS needs it (RFC 1035, RFC 6762).
 * Pure functions over bytes: no sockets, no time, no state outside the caller.
 */

/** Text of the longest name (255 bytes on the wire) and its NUL. */
#define MDNS_NAME_SIZE 254
/** RFC 6762 section 17: no packet is longer, with its IP and UDP headers. */
#define MDNS_PACKET_MAX 9000
#define MDNS_PAYLOAD_MAX (MDNS_PACKET_MAX - 28)

#define MDNS_TYPE_A 1
#define MDNS_TYPE_PTR 12
#define MDNS_TYPE_TXT 16
#define MDNS_TYPE_AAAA 28
#define MDNS_TYPE_SRV 33
#define MDNS_TYPE_ANY 255

#define MDNS_CLASS_IN 1
#define MDNS_CLASS_ANY 255
/** In a question: a unicast answer is welcome. In a record: flush the cache. */
#define MDNS_CLASS_TOP 0x8000

#define MDNS_FLAG_RESPONSE 0x8000
#define MDNS_FLAG_AUTHORITATIVE 0x0400
#define MDNS_MASK_OPCODE 0x7800
#define MDNS_MASK_RCODE 0x000f

/** Labels joined by dots, without the last dot; "" is the root. */
struct mdns_name {
	char text[MDNS_NAME_SIZE];
	bool plain; /* no label holds a dot, a space or a control byte */
};

struct mdns_header {
	uint16_t id;
	uint16_t flags;
	uint16_t n_questions;
	uint16_t n_answers;
	uint16_t n_authorities;
	uint16_t n_additionals;
};

struct mdns_question {
	struct mdns_name name;
	uint16_t type;
	uint16_t class;
};

struct mdns_rr {
	struct mdns_name name;
	uint16_t type;
	uint16_t class;
	uint32_t ttl; /* seconds */
	const uint8_t *data;
	size_t len;
	bool answer;             /* in the answer section */
	uint16_t port;           /* SRV */
	struct mdns_name target; /* PTR and SRV */
};

/** Goes through a message: questions first, then records. */
struct mdns_reader {
	const uint8_t *data;
	size_t len;
	size_t at;
	struct mdns_header header;
	uint32_t questions_left;
	uint32_t records_left;
	uint32_t answers_left;
	bool bad; /* the rest is malformed; what was read before is good */
};

/** False when there is not even a header. `data` is borrowed. */
bool mdns_read(struct mdns_reader *reader, const void *data, size_t len);
/** False after the last one, or with `bad` set. */
bool mdns_read_question(
    struct mdns_reader *reader, struct mdns_question *ret_question);
/** Skips what is left of the questions. False after the last record, or with
 * `bad` set. */
bool mdns_read_record(struct mdns_reader *reader, struct mdns_rr *ret_record);

/** Makes a message, with compressed names. A failure is kept and shows in
 * mdns_write_end. */
struct mdns_writer {
	struct svc_buf buf;
	uint16_t names[32]; /* where labels stand that may be pointed to */
	size_t n_names;
	struct mdns_header header;
};

void mdns_write(struct mdns_writer *writer, uint16_t id, uint16_t flags);
void mdns_write_question(struct mdns_writer *writer, const char *name,
    uint16_t type, uint16_t class);
void mdns_write_ptr(struct mdns_writer *writer, const char *name, uint32_t ttl,
    const char *target);
void mdns_write_srv(struct mdns_writer *writer, const char *name, uint32_t ttl,
    uint16_t port, const char *target);
/** Anything whose data holds no names: A, AAAA, TXT. */
void mdns_write_data(struct mdns_writer *writer, const char *name,
    uint16_t type, uint32_t ttl, const void *data, size_t len);
/** Completes the header; the message is writer->buf then.
 * Errors: SVC_E_EXHAUSTED (longer than MDNS_PAYLOAD_MAX), SVC_E_INVAL (a name
 * that is none), SVC_E_NOMEM */
svc_err mdns_write_end(struct mdns_writer *writer);
void mdns_write_fini(struct mdns_writer *writer);

#endif
