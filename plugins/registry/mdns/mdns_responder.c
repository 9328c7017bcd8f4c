/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_responder.h"

#include "mdns_batch.h"
#include "mdns_knowns.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <string.h>

/* A record is said to the group no more often than this. */
#define MULTICAST_GAP_MS 1000
/* An answer that others may have too waits for that long. */
#define SHARED_DELAY_MS 20
#define SHARED_JITTER_MS 100
/* The same for a question whose known answers need several packets. */
#define MORE_DELAY_MS 400
#define MORE_JITTER_MS 100
#define DEFERRED_MAX 16
#define QUESTIONS_MAX 32
#define TTL_MAX_MS (INT64_C(0x7fffffff) * 1000)

/* After a first announcement, for those who missed it. */
static const int64_t announce_after_ms[] = {1000, 2000};
#define N_ANNOUNCE_AFTER \
	(sizeof(announce_after_ms) / sizeof(announce_after_ms[0]))

/** A node and, for each link, what was said of it there and what has to be. */
struct local {
	struct local *next;
	struct mdns_node *node;
	int64_t expires_at_ms;
	int64_t announce_at_ms; /* INT64_MAX: none due */
	int64_t changed_at_ms;
	size_t announced; /* index into announce_after_ms */
	bool conflict_logged;
	struct {
		int64_t said_at_ms;
		unsigned said; /* since then */
		unsigned due;
	} links[MDNS_LINKS_MAX];
};

/** A question with the bit that says that more known answers follow. */
struct deferred {
	struct deferred *next;
	struct mdns_peer from;
	int64_t due_at_ms;
	struct mdns_knowns knowns;
	struct svc_buf packet;
};

/* What is left, rounded up, so that a renewal is never too late by it. */
static uint32_t
local_ttl(const struct local *local)
{
	int64_t left = svc_remaining(local->expires_at_ms);
	return left > 0 ? (uint32_t)((left + 999) / 1000) : 1;
}

/* ---------------------------------------------------------------- telling */

static void
local_said(struct local *local, int link, unsigned kinds, int64_t now)
{
	if (local->links[link].said_at_ms + MULTICAST_GAP_MS <= now) {
		local->links[link].said_at_ms = now;
		local->links[link].said = 0;
	}
	local->links[link].said |= kinds;
}

/* One packet for go-micro, which takes one node of a packet and no other
 * names, and one for DNS-SD. */
static svc_err
local_multicast(struct mdns_responder *responder, struct local *local, int link,
    bool goodbye, struct svc_error *err)
{
	struct mdns_writer writer;
	struct mdns_batch batch;
	int64_t now = svc_now_ms();
	uint32_t ttl = goodbye ? 0 : local_ttl(local);
	svc_err rc =
	    mdns_go_response(local->node, MDNS_GO_NODE, ttl, 0, NULL, &writer);
	if (rc != SVC_OK)
		svc_error_set(err, rc, "cannot write a packet");
	else
		rc = mdns_net_multicast(
		    responder->net, link, false, writer.data, writer.len, err);
	if (local->node->sd_instance[0] != '\0') {
		mdns_batch_begin(&batch, responder->net, link, NULL, NULL, 0);
		mdns_batch_add(&batch, local->node, ttl,
		    goodbye ? MDNS_SD_NODE : MDNS_SD_NEWS, 0);
		mdns_batch_end(&batch);
	}
	for (int i = 0; i < MDNS_LINKS_MAX; i++)
		if (link == MDNS_ALL_LINKS || link == i)
			local_said(local, i, MDNS_GO_NODE | MDNS_SD_NEWS, now);
	return rc;
}

static void
local_destroy(struct local *local)
{
	mdns_node_destroy(local->node);
	svc_mem_free(local);
}

static void
local_drop(struct mdns_responder *responder, struct local **at)
{
	struct local *local = *at;
	*at = local->next;
	local_multicast(responder, local, MDNS_ALL_LINKS, true, NULL);
	local_destroy(local);
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

/* What is due on a link, as few packets as it needs. */
static void
link_tell(struct mdns_responder *responder, int link)
{
	struct mdns_batch batch;
	int64_t now = svc_now_ms();
	responder->due_at_ms[link] = INT64_MAX;
	mdns_batch_begin(&batch, responder->net, link, NULL, NULL, 0);
	for (struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		unsigned due = local->links[link].due;
		local->links[link].due = 0;
		if (due == 0 || local->expires_at_ms <= now)
			continue;
		unsigned extras = mdns_node_extras(due);
		local_said(local, link, due | extras, now);
		mdns_batch_add(
		    &batch, local->node, local_ttl(local), due, extras);
	}
	mdns_batch_end(&batch);
}

/* -------------------------------------------------------------- answering */

/** Somebody's question, while it is being answered. */
struct asked {
	const struct mdns_question *question;
	const struct mdns_peer *from;
	struct mdns_knowns *knowns;
	uint16_t id;
	bool probe; /* whether the name is in use: no time to lose */
};

/* Those of the answers that the asker does not know. */
static unsigned
unknown(const struct local *local, unsigned answers, const struct asked *asked)
{
	struct mdns_record record;
	uint32_t ttl = local_ttl(local);
	for (int kind = 0; kind < MDNS_KINDS; kind++)
		if ((answers & MDNS_BIT(kind)) != 0 &&
		    mdns_node_record(
			local->node, (enum mdns_kind)kind, ttl, &record) &&
		    mdns_knowns_have(asked->knowns, &record, (ttl + 1) / 2))
			answers &= ~MDNS_BIT(kind);
	return answers;
}

static void
queue(struct mdns_responder *responder, struct local *local, int link,
    unsigned answers, const struct asked *asked)
{
	int64_t now = svc_now_ms(), due = now;
	if (!asked->probe &&
	    local->links[link].said_at_ms + MULTICAST_GAP_MS > now)
		answers &= ~local->links[link].said;
	if (answers == 0)
		return;
	if (!asked->probe && (answers & MDNS_SHARED) != 0)
		due += SHARED_DELAY_MS +
		       (int64_t)svc_random_below(SHARED_JITTER_MS + 1);
	local->links[link].due |= answers;
	if (due < responder->due_at_ms[link])
		responder->due_at_ms[link] = due;
}

/* An mDNS peer asks from the group's port: it is answered before the group,
 * or alone when it wants that and the group has heard it not long ago. */
static void
answer_peer(struct mdns_responder *responder, const struct asked *asked)
{
	struct mdns_batch batch;
	int link = asked->from->link;
	int64_t now = svc_now_ms();
	bool alone = (asked->question->class & MDNS_CLASS_TOP) != 0;
	mdns_batch_begin(&batch, responder->net, link, asked->from, NULL, 0);
	for (struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		unsigned answers = mdns_node_answers(local->node,
		    asked->question->name.text, asked->question->type);
		if (answers == 0 || local->expires_at_ms <= now)
			continue;
		answers = unknown(local, answers, asked);
		unsigned heard = 0;
		if (alone && local->links[link].said_at_ms +
				     (int64_t)local_ttl(local) * 250 >
				 now)
			heard = answers & local->links[link].said;
		if (heard != 0)
			mdns_batch_add(&batch, local->node, local_ttl(local),
			    heard, mdns_node_extras(heard));
		queue(responder, local, link, answers & ~heard, asked);
	}
	mdns_batch_end(&batch);
}

/* Anybody else gets the answer where he asked from. In go-micro's domain that
 * is a packet for each node, since go-micro takes one node of a packet. */
static void
answer_client(struct mdns_responder *responder, const struct asked *asked)
{
	struct mdns_batch batch;
	int64_t now = svc_now_ms();
	uint64_t listed[64];
	size_t n_listed = 0;
	mdns_batch_begin(&batch, responder->net, asked->from->link, asked->from,
	    asked->question, asked->id);
	for (struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		struct mdns_record record;
		struct mdns_writer writer;
		const struct mdns_node *node = local->node;
		unsigned answers = mdns_node_answers(
		    node, asked->question->name.text, asked->question->type);
		if (answers == 0 || local->expires_at_ms <= now)
			continue;
		answers = unknown(local, answers, asked);
		if ((answers & ~MDNS_GO_ALL) != 0) {
			mdns_batch_add(&batch, node, local_ttl(local), answers,
			    mdns_node_extras(answers));
			continue;
		}
		/* A service with many nodes is listed once. */
		for (int kind = MDNS_GO_LIST; kind <= MDNS_GO_ENUM; kind++) {
			if ((answers & MDNS_BIT(kind)) == 0)
				continue;
			mdns_node_record(
			    node, (enum mdns_kind)kind, 1, &record);
			uint64_t hash = mdns_record_hash(&record);
			size_t i = 0;
			while (i < n_listed && listed[i] != hash)
				i++;
			if (i < n_listed)
				answers &= ~MDNS_BIT(kind);
			else if (i < sizeof(listed) / sizeof(listed[0]))
				listed[n_listed++] = hash;
		}
		if (answers == 0)
			continue;
		if (mdns_go_response(node, answers | mdns_node_extras(answers),
			local_ttl(local), asked->id, asked->question,
			&writer) == SVC_OK)
			mdns_net_reply(responder->net, asked->from, writer.data,
			    writer.len);
	}
	mdns_batch_end(&batch);
}

static void
answer(struct mdns_responder *responder, const void *data, size_t len,
    struct mdns_knowns *knowns, const struct mdns_peer *from)
{
	struct mdns_reader reader;
	struct mdns_question question;
	if (!mdns_read(&reader, data, len))
		return;
	struct asked asked = {.question = &question,
	    .from = from,
	    .knowns = knowns,
	    .id = reader.header.id,
	    .probe = reader.header.n_authorities > 0};
	bool peer = mdns_peer_port(from) == responder->net->place.port;
	for (int n = 0; n < QUESTIONS_MAX; n++) {
		if (!mdns_read_question(&reader, &question))
			return;
		int class = question.class & ~MDNS_CLASS_TOP;
		if (!question.name.plain ||
		    (class != MDNS_CLASS_IN && class != MDNS_CLASS_ANY))
			continue;
		if (peer)
			answer_peer(responder, &asked);
		else
			answer_client(responder, &asked);
	}
}

/* --------------------------------------------- questions in several packets */

static struct deferred **
deferred_find(struct mdns_responder *responder, const struct mdns_peer *from)
{
	struct deferred **at = &responder->deferred;
	while (*at != NULL && !mdns_peer_same(&(*at)->from, from))
		at = &(*at)->next;
	return at;
}

static void
deferred_remove(struct mdns_responder *responder, struct deferred **at)
{
	struct deferred *deferred = *at;
	*at = deferred->next;
	responder->n_deferred--;
	mdns_knowns_fini(&deferred->knowns);
	svc_buf_fini(&deferred->packet);
	svc_mem_free(deferred);
}

static void
deferred_answer(struct mdns_responder *responder, struct deferred **at)
{
	struct deferred *deferred = *at;
	answer(responder, deferred->packet.data, deferred->packet.len,
	    &deferred->knowns, &deferred->from);
	deferred_remove(responder, at);
}

static bool
defer(struct mdns_responder *responder, const void *data, size_t len,
    const struct mdns_peer *from)
{
	if (responder->n_deferred == DEFERRED_MAX)
		return false;
	struct deferred *deferred = svc_mem_calloc(1, sizeof(*deferred));
	if (deferred == NULL)
		return false;
	svc_buf_init(&deferred->packet, len);
	mdns_knowns_init(&deferred->knowns);
	mdns_knowns_add(&deferred->knowns, data, len);
	deferred->from = *from;
	deferred->due_at_ms = svc_now_ms() + MORE_DELAY_MS +
			      (int64_t)svc_random_below(MORE_JITTER_MS + 1);
	deferred->next = responder->deferred;
	responder->deferred = deferred;
	responder->n_deferred++;
	if (svc_buf_append(&deferred->packet, data, len) == SVC_OK)
		return true;
	deferred_remove(responder, &responder->deferred);
	return false;
}

/* -------------------------------------------------------- what others say */

/* Two processes that announce the same node under one name make everybody
 * believe the last one who spoke. */
static void
conflict_check(struct mdns_responder *responder, const struct mdns_rr *rr)
{
	struct mdns_record record;
	char quoted[96];
	for (struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		const struct mdns_node *node = local->node;
		if (local->conflict_logged ||
		    !mdns_name_same(rr->name.text, node->sd_instance) ||
		    !mdns_node_record(node, MDNS_SD_SRV, 1, &record) ||
		    mdns_record_hash(&record) == mdns_rr_hash(rr) ||
		    /* It may be our own, from before a change. */
		    local->changed_at_ms + MULTICAST_GAP_MS > svc_now_ms())
			continue;
		local->conflict_logged = true;
		svc_log(SVC_LOG_WARN, "mdns.conflict",
		    "node %s of service %s is announced by another process "
		    "too, at %s port %u: each needs an id of its own",
		    node->id, node->service,
		    svc_log_quote(rr->target.text, strlen(rr->target.text),
			quoted, sizeof(quoted)),
		    (unsigned)rr->port);
	}
}

/* What another has just said to the group need not be said again. */
static void
hear_response(struct mdns_responder *responder, const void *data, size_t len,
    const struct mdns_peer *from)
{
	struct mdns_reader reader;
	struct mdns_rr rr;
	struct mdns_record record;
	struct mdns_knowns said;
	if (!mdns_read(&reader, data, len))
		return;
	while (mdns_read_record(&reader, &rr))
		if (rr.type == MDNS_TYPE_SRV && rr.ttl > 0)
			conflict_check(responder, &rr);
	if (responder->due_at_ms[from->link] == INT64_MAX)
		return;
	mdns_knowns_init(&said);
	mdns_knowns_add(&said, data, len);
	for (struct local *local = responder->locals;
	     local != NULL && said.n > 0; local = local->next) {
		unsigned *due = &local->links[from->link].due;
		uint32_t ttl = local_ttl(local);
		for (int kind = 0; kind < MDNS_KINDS; kind++)
			if ((*due & MDNS_BIT(kind)) != 0 &&
			    mdns_node_record(local->node, (enum mdns_kind)kind,
				ttl, &record) &&
			    mdns_knowns_have(&said, &record, ttl))
				*due &= ~MDNS_BIT(kind);
	}
	mdns_knowns_fini(&said);
}

void
mdns_responder_hear(struct mdns_responder *responder, const void *data,
    size_t len, const struct mdns_peer *from)
{
	struct mdns_reader reader;
	struct mdns_knowns knowns;
	if (responder->locals == NULL || from->link < 0 ||
	    !mdns_read(&reader, data, len) ||
	    (reader.header.flags & (MDNS_MASK_OPCODE | MDNS_MASK_RCODE)) != 0)
		return;
	if ((reader.header.flags & MDNS_FLAG_RESPONSE) != 0) {
		if (mdns_peer_port(from) == responder->net->place.port)
			hear_response(responder, data, len, from);
		return;
	}
	bool more = (reader.header.flags & MDNS_FLAG_TRUNCATED) != 0;
	struct deferred **at = deferred_find(responder, from);
	if (reader.header.n_questions == 0) {
		if (*at == NULL)
			return;
		mdns_knowns_add(&(*at)->knowns, data, len);
		if (more)
			(*at)->due_at_ms = svc_now_ms() + MORE_DELAY_MS;
		else
			deferred_answer(responder, at);
		return;
	}
	if (more && defer(responder, data, len, from))
		return;
	mdns_knowns_init(&knowns);
	mdns_knowns_add(&knowns, data, len);
	answer(responder, data, len, &knowns, from);
	mdns_knowns_fini(&knowns);
}

/* -------------------------------------------------------------- the nodes */

int64_t
mdns_responder_tick(struct mdns_responder *responder)
{
	int64_t now = svc_now_ms(), due = INT64_MAX;
	for (struct deferred **at = &responder->deferred; *at != NULL;) {
		if ((*at)->due_at_ms <= now) {
			deferred_answer(responder, at);
			continue;
		}
		if ((*at)->due_at_ms < due)
			due = (*at)->due_at_ms;
		at = &(*at)->next;
	}
	for (int i = 0; i < MDNS_LINKS_MAX; i++) {
		if (responder->due_at_ms[i] <= now)
			link_tell(responder, i);
		if (responder->due_at_ms[i] < due)
			due = responder->due_at_ms[i];
	}
	for (struct local **at = &responder->locals; *at != NULL;) {
		struct local *local = *at;
		if (local->expires_at_ms <= now) {
			local_drop(responder, at);
			continue;
		}
		if (local->announce_at_ms <= now) {
			local_multicast(
			    responder, local, MDNS_ALL_LINKS, false, NULL);
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

void
mdns_responder_init(struct mdns_responder *responder, struct mdns_net *net)
{
	memset(responder, 0, sizeof(*responder));
	responder->net = net;
	for (int i = 0; i < MDNS_LINKS_MAX; i++)
		responder->due_at_ms[i] = INT64_MAX;
}

void
mdns_responder_fini(struct mdns_responder *responder)
{
	while (responder->deferred != NULL)
		deferred_remove(responder, &responder->deferred);
	while (responder->locals != NULL) {
		struct local *local = responder->locals;
		responder->locals = local->next;
		local_destroy(local);
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
		for (int i = 0; i < MDNS_LINKS_MAX; i++)
			local->links[i].said_at_ms = INT64_MIN / 2;
		local->announce_at_ms = INT64_MAX;
		local->next = responder->locals;
		responder->locals = local;
	}
	if (fresh) {
		mdns_node_destroy(local->node);
		local->node = node;
		local->announced = 1;
		local->announce_at_ms = svc_now_ms() + announce_after_ms[0];
		local->changed_at_ms = svc_now_ms();
	} else {
		mdns_node_destroy(node);
	}
	local->expires_at_ms = svc_deadline(
	    ttl_ms == SVC_FOREVER || ttl_ms > TTL_MAX_MS ? TTL_MAX_MS : ttl_ms);
	return local_multicast(responder, local, MDNS_ALL_LINKS, false, err);
}

void
mdns_responder_withdraw(
    struct mdns_responder *responder, const char *service, const char *id)
{
	struct local **at = local_find(responder, service, id);
	if (*at != NULL)
		local_drop(responder, at);
}

void
mdns_responder_links(struct mdns_responder *responder, uint64_t fresh)
{
	int64_t now = svc_now_ms();
	for (int i = 0; i < MDNS_LINKS_MAX; i++)
		if ((fresh & UINT64_C(1) << i) != 0)
			responder->due_at_ms[i] = INT64_MAX;
	for (struct local *local = responder->locals; local != NULL;
	     local = local->next) {
		for (int i = 0; i < MDNS_LINKS_MAX; i++) {
			if ((fresh & UINT64_C(1) << i) == 0)
				continue;
			local->links[i].due = 0;
			local->links[i].said_at_ms = INT64_MIN / 2;
			local_multicast(responder, local, i, false, NULL);
		}
		local->announced = 1;
		local->announce_at_ms = now + announce_after_ms[0];
	}
}
