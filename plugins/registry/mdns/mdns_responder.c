/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_responder.h"

#include <svc/clock.h>

#include <arpa/inet.h>
#include <string.h>

#define MULTICAST_GAP_MS 1000
#define QUESTIONS_MAX 32
#define TTL_MAX_MS (INT64_C(0x7fffffff) * 1000)

/* After a first announcement, for those who missed it. */
static const int64_t announce_after_ms[] = {1000, 2000};
#define N_ANNOUNCE_AFTER \
	(sizeof(announce_after_ms) / sizeof(announce_after_ms[0]))

struct local {
	struct local *next;
	struct mdns_node *node;
	int64_t expires_at_ms;
	int64_t announce_at_ms; /* INT64_MAX: none due */
	size_t announced;       /* index into announce_after_ms */
	int64_t multicast_at_ms;
};

/* What is left, rounded up, so that a renewal is never too late by it. */
static uint32_t
local_ttl(const struct local *local)
{
	int64_t left = svc_remaining(local->expires_at_ms);
	return left > 0 ? (uint32_t)((left + 999) / 1000) : 1;
}

static svc_err
local_multicast(struct mdns_responder *responder, struct local *local,
    uint32_t ttl, struct svc_error *err)
{
	struct mdns_writer writer;
	svc_err rc =
	    mdns_node_write(local->node, MDNS_WITH_ALL, ttl, 0, NULL, &writer);
	if (rc != SVC_OK)
		svc_error_set(err, rc, "cannot write a packet");
	else
		rc = mdns_net_multicast(responder->net, false, writer.buf.data,
		    writer.buf.len, err);
	mdns_write_fini(&writer);
	local->multicast_at_ms = svc_now_ms();
	return rc;
}

static void
local_drop(struct mdns_responder *responder, struct local **at)
{
	struct local *local = *at;
	*at = local->next;
	if (mdns_net_is_open(responder->net))
		local_multicast(responder, local, 0, NULL);
	mdns_node_destroy(local->node);
	svc_mem_free(local);
}

static struct local **
local_find(
    struct mdns_responder *responder, const char *service, const char *id)
{
	struct local **at = &responder->locals;
	while (*at != NULL && (strcmp((*at)->node->service, service) != 0 ||
				  strcmp((*at)->node->id, id) != 0))
		at = &(*at)->next;
	return at;
}

int64_t
mdns_responder_tick(struct mdns_responder *responder)
{
	int64_t now = svc_now_ms(), due = INT64_MAX;
	struct local **at = &responder->locals;
	while (*at != NULL) {
		struct local *local = *at;
		if (local->expires_at_ms <= now) {
			local_drop(responder, at);
			continue;
		}
		if (local->announce_at_ms <= now) {
			local_multicast(
			    responder, local, local_ttl(local), NULL);
			local->announce_at_ms =
			    local->announced < N_ANNOUNCE_AFTER
				? now + announce_after_ms[local->announced++]
				: INT64_MAX;
		}
		if (local->announce_at_ms < due)
			due = local->announce_at_ms;
		if (local->expires_at_ms < due)
			due = local->expires_at_ms;
		at = &local->next;
	}
	return due;
}

/** Somebody's question, while it is being answered. */
struct asked {
	const struct mdns_question *question; /* NULL: answer the group */
	const struct sockaddr_in *from;
	uint16_t id;
};

static void
answer_send(struct mdns_responder *responder, const struct asked *asked,
    struct mdns_writer *writer, svc_err rc)
{
	if (rc == SVC_OK && asked->question == NULL)
		mdns_net_multicast(responder->net, false, writer->buf.data,
		    writer->buf.len, NULL);
	else if (rc == SVC_OK)
		mdns_net_reply(responder->net, asked->from, writer->buf.data,
		    writer->buf.len);
	mdns_write_fini(writer);
}

static unsigned
answer_with(const struct mdns_node *node, const struct mdns_question *question)
{
	const char *name = question->name.text;
	bool any = question->type == MDNS_TYPE_ANY;
	if ((any || question->type == MDNS_TYPE_PTR) &&
	    strcmp(name, node->owner) == 0)
		return MDNS_WITH_ALL;
	if (strcmp(name, node->instance) != 0)
		return 0;
	if (any)
		return MDNS_WITH_ALL & ~MDNS_WITH_PTR;
	if (question->type == MDNS_TYPE_SRV)
		return MDNS_WITH_SRV | MDNS_WITH_ADDRESS;
	return question->type == MDNS_TYPE_TXT ? MDNS_WITH_TXT : 0;
}

/* Whether a node before this one has the same service. */
static bool
listed_before(const struct mdns_responder *responder, const struct local *local)
{
	const struct local *other = responder->locals;
	while (other != local &&
	       strcmp(other->node->owner, local->node->owner) != 0)
		other = other->next;
	return other != local;
}

static void
answer_list(struct mdns_responder *responder,
    const struct mdns_question *question, const struct asked *asked)
{
	struct mdns_writer writer;
	bool list = strcmp(question->name.text, MDNS_LIST) == 0;
	if ((question->type != MDNS_TYPE_PTR &&
		question->type != MDNS_TYPE_ANY) ||
	    (!list && strcmp(question->name.text, MDNS_ENUMERATION) != 0))
		return;
	for (const struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		if (listed_before(responder, local))
			continue;
		uint32_t ttl = local_ttl(local);
		if (list) {
			svc_err rc = mdns_list_write(local->node, ttl,
			    asked->id, asked->question, &writer);
			answer_send(responder, asked, &writer, rc);
			continue;
		}
		mdns_write(&writer, asked->id,
		    MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE);
		if (asked->question != NULL)
			mdns_write_question(&writer, question->name.text,
			    question->type, question->class);
		mdns_write_ptr(
		    &writer, MDNS_ENUMERATION, ttl, local->node->owner);
		answer_send(responder, asked, &writer, mdns_write_end(&writer));
	}
}

/* A packet for each node: go-micro takes one node of a packet. */
static void
answer(struct mdns_responder *responder, const struct mdns_question *question,
    const struct asked *asked)
{
	int64_t now = svc_now_ms();
	for (struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		struct mdns_writer writer;
		unsigned with = answer_with(local->node, question);
		if (with == 0 || local->expires_at_ms <= now)
			continue;
		if (asked->question == NULL) {
			if (local->multicast_at_ms + MULTICAST_GAP_MS > now)
				continue;
			local->multicast_at_ms = now;
		}
		svc_err rc = mdns_node_write(local->node, with,
		    local_ttl(local), asked->id, asked->question, &writer);
		answer_send(responder, asked, &writer, rc);
	}
	answer_list(responder, question, asked);
}

/* A full mDNS peer asks from the group's port and gets its answer there, for
 * everybody to hear; anybody else gets it where he asked from. */
void
mdns_responder_hear(struct mdns_responder *responder, const void *data,
    size_t len, const struct sockaddr_in *from)
{
	struct mdns_reader reader;
	struct mdns_question question;
	bool peer = ntohs(from->sin_port) == responder->net->place.port;
	if (responder->locals == NULL || !mdns_read(&reader, data, len) ||
	    (reader.header.flags &
		(MDNS_FLAG_RESPONSE | MDNS_MASK_OPCODE | MDNS_MASK_RCODE)) != 0)
		return;
	for (int n = 0; n < QUESTIONS_MAX; n++) {
		if (!mdns_read_question(&reader, &question))
			return;
		int class = question.class & ~MDNS_CLASS_TOP;
		struct asked asked = {.question = peer ? NULL : &question,
		    .from = from,
		    .id = peer ? 0 : reader.header.id};
		if (question.name.plain &&
		    (class == MDNS_CLASS_IN || class == MDNS_CLASS_ANY))
			answer(responder, &question, &asked);
	}
}

void
mdns_responder_init(struct mdns_responder *responder, struct mdns_net *net)
{
	responder->net = net;
	responder->locals = NULL;
}

void
mdns_responder_fini(struct mdns_responder *responder)
{
	while (responder->locals != NULL) {
		struct local *local = responder->locals;
		responder->locals = local->next;
		mdns_node_destroy(local->node);
		svc_mem_free(local);
	}
}

svc_err
mdns_responder_announce(struct mdns_responder *responder,
    struct mdns_node *node, int64_t ttl_ms, struct svc_error *err)
{
	struct local *local = *local_find(responder, node->service, node->id);
	bool fresh = local == NULL || !mdns_node_equal(local->node, node);
	if (local == NULL) {
		local = svc_mem_calloc(1, sizeof(*local));
		if (local == NULL) {
			mdns_node_destroy(node);
			return svc_error_set(err, SVC_E_NOMEM, "out of memory");
		}
		local->announce_at_ms = INT64_MAX;
		local->next = responder->locals;
		responder->locals = local;
	}
	if (fresh) {
		mdns_node_destroy(local->node);
		local->node = node;
		local->announced = 1;
		local->announce_at_ms = svc_now_ms() + announce_after_ms[0];
	} else {
		mdns_node_destroy(node);
	}
	local->expires_at_ms = svc_deadline(
	    ttl_ms == SVC_FOREVER || ttl_ms > TTL_MAX_MS ? TTL_MAX_MS : ttl_ms);
	return local_multicast(responder, local, local_ttl(local), err);
}

void
mdns_responder_withdraw(
    struct mdns_responder *responder, const char *service, const char *id)
{
	struct local **at = local_find(responder, service, id);
	if (*at != NULL)
		local_drop(responder, at);
}
