/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_found.h"
#include "mdns_knowns.h"
#include "mdns_node.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What decodes has to be writable again and to mean the same then. */
static void
node(const struct mdns_found *found, void *arg)
{
	struct svc_record *record = NULL;
	struct mdns_node *made = NULL;
	(void)arg;
	mdns_found_hash(found);
	if (found->ttl == 0 ||
	    mdns_found_decode(found, &record, NULL) != SVC_OK)
		return;
	if (svc_record_check(record, NULL) != SVC_OK)
		abort();
	if (mdns_node_create(record, "host", &made, NULL) == SVC_OK) {
		mdns_node_destroy(made);
	}
	svc_record_destroy(record);
}

static void
listed(const char *owner, void *arg)
{
	(void)arg;
	if (owner[0] == '\0')
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct mdns_sink sink = {.node = node, .listed = listed};
	struct mdns_reader reader;
	struct mdns_question question;
	struct mdns_rr rr;
	if (mdns_read(&reader, data, size)) {
		while (mdns_read_question(&reader, &question))
			;
		while (mdns_read_record(&reader, &rr))
			if (rr.data < data || rr.data + rr.len > data + size)
				abort();
	}
	struct mdns_knowns knowns;
	mdns_knowns_init(&knowns);
	mdns_knowns_add(&knowns, data, size);
	mdns_knowns_fini(&knowns);
	mdns_response_read(data, size, &sink, NULL);
	return 0;
}
