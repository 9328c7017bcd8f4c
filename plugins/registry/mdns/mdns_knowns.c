/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_knowns.h"

#include <stdlib.h>

#define KNOWNS_MAX 16384

void
mdns_knowns_init(struct mdns_knowns *knowns)
{
	*knowns = (struct mdns_knowns){.n = 0};
}

void
mdns_knowns_fini(struct mdns_knowns *knowns)
{
	svc_mem_free(knowns->items);
	mdns_knowns_init(knowns);
}

void
mdns_knowns_add(struct mdns_knowns *knowns, const void *data, size_t len)
{
	struct mdns_reader reader;
	struct mdns_rr rr;
	if (!mdns_read(&reader, data, len) || reader.header.n_answers == 0)
		return;
	while (mdns_read_record(&reader, &rr) && rr.section == MDNS_ANSWER) {
		if ((rr.class & ~MDNS_CLASS_TOP) != MDNS_CLASS_IN ||
		    knowns->n == KNOWNS_MAX)
			continue;
		if (knowns->n == knowns->cap) {
			size_t cap = knowns->cap * 2 + 32;
			struct mdns_said *items = svc_mem_realloc(
			    knowns->items, cap * sizeof(*items));
			if (items == NULL)
				return;
			knowns->items = items;
			knowns->cap = cap;
		}
		knowns->items[knowns->n++] = (struct mdns_said){
		    .hash = mdns_rr_hash(&rr), .ttl = rr.ttl};
		knowns->sorted = false;
	}
}

static int
compare(const void *a, const void *b)
{
	const struct mdns_said *x = a, *y = b;
	return (x->hash > y->hash) - (x->hash < y->hash);
}

bool
mdns_knowns_have(
    struct mdns_knowns *knowns, const struct mdns_record *record, uint32_t ttl)
{
	if (knowns->n == 0)
		return false;
	if (!knowns->sorted)
		qsort(
		    knowns->items, knowns->n, sizeof(*knowns->items), compare);
	knowns->sorted = true;
	struct mdns_said key = {.hash = mdns_record_hash(record)};
	const struct mdns_said *said = bsearch(
	    &key, knowns->items, knowns->n, sizeof(*knowns->items), compare);
	return said != NULL && said->ttl >= ttl;
}
