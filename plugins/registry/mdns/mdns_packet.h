/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_PACKET_H
#define MDNS_PACKET_H

#include <svc/error.h>

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
#define MDNS_TYPE_NSEC 47
#define MDNS_TYPE_ANY 255

#define MDNS_CLASS_IN 1
#define MDNS_CLASS_ANY 255
/** In a question: a unicast answer is welcome. In a record: flush the cache. */
#define MDNS_CLASS_TOP 0x8000

#define MDNS_FLAG_RESPONSE 0x8000
#define MDNS_FLAG_AUTHORITATIVE 0x0400
/** In a question: more known answers follow in further packets. */
#define MDNS_FLAG_TRUNCATED 0x0200
#define MDNS_MASK_OPCODE 0x7800
#define MDNS_MASK_RCODE 0x000f

/** A packet of several records is kept shorter than this, so that it is not cut
 * into fragments on the way. */
#define MDNS_PAYLOAD_SOFT 1400

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

enum mdns_section { MDNS_ANSWER, MDNS_AUTHORITY, MDNS_ADDITIONAL };

/** A record that was read. */
struct mdns_rr {
	struct mdns_name name;
	uint16_t type;
	uint16_t class;
	uint32_t ttl; /* seconds */
	const uint8_t *data;
	size_t len;
	enum mdns_section section;
	uint16_t priority; /* SRV */
	uint16_t weight;
	uint16_t port;
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

/** A record to be written; what it points to is borrowed. */
struct mdns_record {
	const char *name;
	uint16_t type;
	bool unique; /* nobody else has records of this name and type */
	uint32_t ttl;
	const char *target; /* PTR, SRV, NSEC */
	uint16_t priority;  /* SRV */
	uint16_t weight;
	uint16_t port;
	const void *data; /* all others, and NSEC's bits */
	size_t len;
};

/** The same number for the same name, type and data, whoever wrote them and
 * in whatever case; the TTL does not count. */
uint64_t mdns_record_hash(const struct mdns_record *record);
uint64_t mdns_rr_hash(const struct mdns_rr *rr);
/** Whether two names are the same in DNS, which knows no case. */
bool mdns_name_same(const char *a, const char *b);

/** Makes a message, with compressed names, and needs no memory for it: what has
 * to be said, such as a goodbye, can be said. A failure is kept and shows in
 * mdns_write_end. */
struct mdns_writer {
	size_t len;
	svc_err failed;
	uint16_t names[64]; /* where labels stand that may be pointed to */
	size_t n_names;
	struct mdns_header header;
	uint8_t data[MDNS_PAYLOAD_MAX];
};

void mdns_write(struct mdns_writer *writer, uint16_t id, uint16_t flags);
void mdns_write_question(struct mdns_writer *writer, const char *name,
    uint16_t type, uint16_t class);
/** Sections have to be written in their order. With `flush`, a unique record
 * says that it replaces what is in caches. */
void mdns_write_record(struct mdns_writer *writer, enum mdns_section section,
    const struct mdns_record *record, bool flush);
/** Completes the header; the message is writer->data then.
 * Errors: SVC_E_EXHAUSTED (longer than MDNS_PAYLOAD_MAX), SVC_E_INVAL (a name
 * that is none) */
svc_err mdns_write_end(struct mdns_writer *writer);

#endif
