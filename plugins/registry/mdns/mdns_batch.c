/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_batch.h"

#include <string.h>

#define LEGACY_TTL_MAX 10
#define HEAD_SIZE 100 /* the header, a question, the domains' names */

void
mdns_batch_begin(struct mdns_batch *batch, struct mdns_net *net, int link,
    const struct mdns_peer *to, const struct mdns_question *question,
    uint16_t id)
{
	batch->net = net;
	batch->link = link;
	batch->to = to;
	batch->question = question;
	batch->id = id;
	batch->n = 0;
	batch->size = HEAD_SIZE;
	batch->cut = false;
}

/* What was written already, so that nothing is said twice. */
struct said {
	uint64_t hashes[MDNS_BATCH_MAX * MDNS_KINDS];
	size_t n;
};

static bool
say(struct said *said, const struct mdns_record *record)
{
	uint64_t hash = mdns_record_hash(record);
	for (size_t i = 0; i < said->n; i++)
		if (said->hashes[i] == hash)
			return false;
	said->hashes[said->n++] = hash;
	return true;
}

static void
section_write(const struct mdns_batch *batch, enum mdns_section section,
    struct said *said, struct mdns_writer *writer)
{
	bool legacy = batch->question != NULL;
	struct mdns_record record;
	for (size_t i = 0; i < batch->n; i++) {
		unsigned kinds = section == MDNS_ANSWER
				     ? batch->items[i].answers
				     : batch->items[i].extras;
		uint32_t ttl = batch->items[i].ttl;
		if (legacy && ttl > LEGACY_TTL_MAX)
			ttl = LEGACY_TTL_MAX;
		for (int kind = 0; kind < MDNS_KINDS; kind++)
			if ((kinds & MDNS_BIT(kind)) != 0 &&
			    mdns_node_record(batch->items[i].node,
				(enum mdns_kind)kind, ttl, &record) &&
			    say(said, &record))
				mdns_write_record(
				    writer, section, &record, !legacy);
	}
}

static void
batch_send(struct mdns_batch *batch)
{
	struct mdns_writer writer;
	struct said said = {.n = 0};
	unsigned flags = MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE;
	if (batch->cut)
		flags |= MDNS_FLAG_TRUNCATED;
	mdns_write(&writer, batch->id, (uint16_t)flags);
	if (batch->question != NULL)
		mdns_write_question(&writer, batch->question->name.text,
		    batch->question->type,
		    batch->question->class & (uint16_t)~MDNS_CLASS_TOP);
	section_write(batch, MDNS_ANSWER, &said, &writer);
	section_write(batch, MDNS_ADDITIONAL, &said, &writer);
	if (mdns_write_end(&writer) == SVC_OK) {
		if (batch->to != NULL)
			mdns_net_reply(
			    batch->net, batch->to, writer.data, writer.len);
		else
			mdns_net_multicast(batch->net, batch->link, false,
			    writer.data, writer.len, NULL);
	}
	batch->n = 0;
	batch->size = HEAD_SIZE;
}

/* Names are counted as if each label that is the node's own stood once more
 * than compression lets it. */
static size_t
size_of(const struct mdns_node *node, unsigned kinds)
{
	struct mdns_record record;
	size_t size = 0;
	for (int kind = 0; kind < MDNS_KINDS; kind++) {
		if ((kinds & MDNS_BIT(kind)) == 0 ||
		    !mdns_node_record(node, (enum mdns_kind)kind, 1, &record))
			continue;
		size += 14 + record.len;
		if (record.type == MDNS_TYPE_SRV)
			size += 8 + strlen(record.target);
		else if (record.target != NULL)
			size += 3 + strcspn(record.target, ".");
	}
	return size;
}

void
mdns_batch_add(struct mdns_batch *batch, const struct mdns_node *node,
    uint32_t ttl, unsigned answers, unsigned extras)
{
	size_t size = size_of(node, answers | extras);
	bool full = batch->n == MDNS_BATCH_MAX ||
		    batch->size + size > MDNS_PAYLOAD_SOFT;
	if (batch->cut)
		return;
	if (batch->n > 0 && full) {
		batch->cut = batch->question != NULL;
		if (batch->cut)
			return;
		batch_send(batch);
	}
	batch->items[batch->n].node = node;
	batch->items[batch->n].ttl = ttl;
	batch->items[batch->n].answers = answers;
	batch->items[batch->n].extras = extras;
	batch->n++;
	batch->size += size;
}

void
mdns_batch_end(struct mdns_batch *batch)
{
	if (batch->n > 0)
		batch_send(batch);
}
