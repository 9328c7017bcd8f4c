/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_NODE_H
#define MDNS_NODE_H

#include "mdns_packet.h"

#include <svc/registry.h>

/**
 * How a node is written in DNS records, in go-micro's way, and how it is read
 * from them. Pure functions.
 *
 * Names are dotted texts. A service "a.b" owns "a.b.micro", its node "x" is
 * "x.a.b.micro", and "a.b._services.micro" lists it. What cannot be labels
 * (one longer than 63 bytes, an empty one) is replaced by one short label that
 * begins like it and ends in a hash; the TXT data then has the full id.
 */
#define MDNS_DOMAIN "micro"
#define MDNS_LIST "_services." MDNS_DOMAIN
#define MDNS_ENUMERATION "_services._dns-sd._udp." MDNS_DOMAIN
/** What the TXT data may grow to when it is decompressed. */
#define MDNS_TXT_MAX (1024 * 1024)

void mdns_service_name(const char *service, char ret_name[MDNS_NAME_SIZE]);
void mdns_instance_name(
    const char *service, const char *id, char ret_name[MDNS_NAME_SIZE]);
void mdns_list_name(const char *service, char ret_name[MDNS_NAME_SIZE]);

/** A node ready to be written into packets. */
struct mdns_node {
	char *service; /* as the registry calls it */
	char *id;
	char owner[MDNS_NAME_SIZE];
	char instance[MDNS_NAME_SIZE];
	char list[MDNS_NAME_SIZE];
	char host[MDNS_NAME_SIZE];
	uint16_t port;
	bool has_v4;
	bool has_v6;
	uint8_t ip[16];
	struct svc_buf txt; /* the data of the TXT record */
};

/** From a record's one node; `host` is the name of this machine.
 * Errors: SVC_E_INVAL (no packet holds it, or not one node), SVC_E_NOMEM */
svc_err mdns_node_create(const struct svc_record *record, const char *host,
    struct mdns_node **ret_node, struct svc_error *err);
void mdns_node_destroy(struct mdns_node *node);
/** Whether both say the same of the same node. */
bool mdns_node_equal(const struct mdns_node *a, const struct mdns_node *b);

/** Which records a packet about a node gets. */
#define MDNS_WITH_PTR 1u
#define MDNS_WITH_SRV 2u
#define MDNS_WITH_ADDRESS 4u
#define MDNS_WITH_TXT 8u
#define MDNS_WITH_ALL 15u

/** A response about the node. `question` may be NULL; go-micro takes a
 * response only when it repeats the question. Errors: of mdns_write_end */
svc_err mdns_node_write(const struct mdns_node *node, unsigned with,
    uint32_t ttl, uint16_t id, const struct mdns_question *question,
    struct mdns_writer *writer);
/** A response that lists the node's service. */
svc_err mdns_list_write(const struct mdns_node *node, uint32_t ttl, uint16_t id,
    const struct mdns_question *question, struct mdns_writer *writer);

/** A node found in a response; lives only for the call. */
struct mdns_found {
	const char *instance;
	uint32_t ttl;     /* 0: it says goodbye */
	char address[64]; /* "" when there is none, as in goodbyes */
	const uint8_t *txt;
	size_t txt_len; /* 0 when there is none, as in goodbyes */
};
struct mdns_sink {
	void (*node)(const struct mdns_found *found, void *arg);
	/** A listed service, as the name that owns its nodes. */
	void (*listed)(const char *owner, void *arg);
};
/** Reports what a packet tells of nodes in MDNS_DOMAIN: nothing when it is no
 * response or garbage. At most 64 nodes of a packet. */
void mdns_response_read(
    const void *data, size_t len, const struct mdns_sink *sink, void *arg);

/** The node as a record with one node. Errors: SVC_E_INVAL, SVC_E_NOMEM */
svc_err mdns_found_decode(const struct mdns_found *found,
    struct svc_record **ret_record, struct svc_error *err);
/** A number for the content of what was found, to see changes by. */
uint64_t mdns_found_hash(const struct mdns_found *found);

#endif
