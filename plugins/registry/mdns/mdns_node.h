/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_NODE_H
#define MDNS_NODE_H

#include "mdns_name.h"

#include <svc/buf.h>
#include <svc/registry.h>

/** A node as the DNS records that tell of it: in go-micro's domain in its way,
 * and for DNS-SD (RFC 6763). Pure functions. */
struct mdns_node {
	char *service; /* as the registry calls it */
	char *id;
	/* go-micro's names. */
	char owner[MDNS_NAME_SIZE];
	char instance[MDNS_NAME_SIZE];
	char list[MDNS_NAME_SIZE];
	char host[MDNS_NAME_SIZE];
	/* DNS-SD's; sd_instance is "" for an address that has no port. */
	char sd_instance[MDNS_NAME_SIZE];
	char sd_subtype[MDNS_NAME_SIZE];
	char sd_host[MDNS_NAME_SIZE];
	uint16_t port;
	bool has_v4;
	bool has_v6;
	uint8_t ip[16];
	struct svc_buf txt; /* the data of the TXT records */
	struct svc_buf sd_txt;
};

/** From a record's one node; `host` is the name of this machine.
 * Errors: SVC_E_INVAL (no packet holds it, or not one node), SVC_E_NOMEM */
svc_err mdns_node_create(const struct svc_record *record, const char *host,
    struct mdns_node **ret_node, struct svc_error *err);
void mdns_node_destroy(struct mdns_node *node);
/** Whether both say the same of the same node. */
bool mdns_node_equal(const struct mdns_node *a, const struct mdns_node *b);

/** The records of a node. Sets of them are bits, of MDNS_BIT. */
enum mdns_kind {
	MDNS_GO_PTR, /* the service's name: the instance */
	MDNS_GO_SRV,
	MDNS_GO_ADDRESS,
	MDNS_GO_TXT,
	MDNS_GO_LIST, /* MDNS_LIST: the service */
	MDNS_GO_ENUM, /* MDNS_ENUMERATION: the service's name */

	MDNS_SD_PTR,    /* MDNS_SD_TYPE: the instance */
	MDNS_SD_SUBPTR, /* the subtype: the instance */
	MDNS_SD_ENUM,   /* MDNS_SD_ENUMERATION: MDNS_SD_TYPE */
	MDNS_SD_SRV,
	MDNS_SD_TXT,
	MDNS_SD_ADDRESS,
	MDNS_SD_NSEC,      /* what the instance has not */
	MDNS_SD_HOST_NSEC, /* what the host has not */
	MDNS_KINDS,
};
#define MDNS_BIT(kind) (1u << (kind))
/** All that go-micro wants to have of a node, in one packet. */
#define MDNS_GO_NODE                                     \
	(MDNS_BIT(MDNS_GO_PTR) | MDNS_BIT(MDNS_GO_SRV) | \
	    MDNS_BIT(MDNS_GO_ADDRESS) | MDNS_BIT(MDNS_GO_TXT))
#define MDNS_GO_ALL \
	(MDNS_GO_NODE | MDNS_BIT(MDNS_GO_LIST) | MDNS_BIT(MDNS_GO_ENUM))
/** What is announced of a node, and what it says goodbye to: others may have
 * the same host and enumeration. */
#define MDNS_SD_NODE                                        \
	(MDNS_BIT(MDNS_SD_PTR) | MDNS_BIT(MDNS_SD_SUBPTR) | \
	    MDNS_BIT(MDNS_SD_SRV) | MDNS_BIT(MDNS_SD_TXT))
#define MDNS_SD_NEWS                                                         \
	(MDNS_SD_NODE | MDNS_BIT(MDNS_SD_ENUM) | MDNS_BIT(MDNS_SD_ADDRESS) | \
	    MDNS_BIT(MDNS_SD_NSEC) | MDNS_BIT(MDNS_SD_HOST_NSEC))
/** Records that others may have too, so that an answer has to wait for a
 * moment: theirs may come at the same time. */
#define MDNS_SHARED                                          \
	(MDNS_BIT(MDNS_GO_PTR) | MDNS_BIT(MDNS_GO_LIST) |    \
	    MDNS_BIT(MDNS_GO_ENUM) | MDNS_BIT(MDNS_SD_PTR) | \
	    MDNS_BIT(MDNS_SD_SUBPTR) | MDNS_BIT(MDNS_SD_ENUM))

/** One of them; false when the node has it not. It points into the node. */
bool mdns_node_record(const struct mdns_node *node, enum mdns_kind kind,
    uint32_t ttl, struct mdns_record *ret_record);
/** Those that a question of this name and type asks for. */
unsigned mdns_node_answers(
    const struct mdns_node *node, const char *name, uint16_t type);
/** Those that whoever asked for these will want to have next. */
unsigned mdns_node_extras(unsigned answers);
/** Writes those of `kinds` that there are. */
void mdns_node_write(const struct mdns_node *node, unsigned kinds, uint32_t ttl,
    enum mdns_section section, bool flush, struct mdns_writer *writer);

/** A response as go-micro wants it. `question` may be NULL; go-micro takes a
 * response only when it repeats the question. Errors: of mdns_write_end */
svc_err mdns_go_response(const struct mdns_node *node, unsigned kinds,
    uint32_t ttl, uint16_t id, const struct mdns_question *question,
    struct mdns_writer *writer);

#endif
