/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The responder and the browser, as whatever is on the network makes them
 * work. The input is packets, each after two bytes of length and one that says
 * where it comes from and how much time has passed. Nothing is sent: the
 * functions of mdns_net.h that they use are here.
 */
#include "mdns_browser.h"
#include "mdns_responder.h"

#include <svc/clock.h>

#include <stdlib.h>
#include <string.h>

#define PORT 5353

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

uint16_t
mdns_peer_port(const struct mdns_peer *peer)
{
	return ntohs(peer->address.v4.sin_port);
}

bool
mdns_peer_same(const struct mdns_peer *a, const struct mdns_peer *b)
{
	return a->address.v4.sin_port == b->address.v4.sin_port &&
	       a->link == b->link;
}

/* Whatever is sent has to be a packet that can be read. */
static void
check(const void *data, size_t len)
{
	struct mdns_reader reader;
	struct mdns_rr rr;
	size_t n = 0;
	if (len > MDNS_PAYLOAD_MAX || !mdns_read(&reader, data, len))
		abort();
	while (mdns_read_record(&reader, &rr))
		n++;
	if (reader.bad || reader.at != len ||
	    n != (size_t)reader.header.n_answers + reader.header.n_authorities +
		     reader.header.n_additionals)
		abort();
}

svc_err
mdns_net_multicast(struct mdns_net *net, int link, bool own_port,
    const void *data, size_t len, struct svc_error *err)
{
	(void)net;
	(void)link;
	(void)own_port;
	(void)err;
	check(data, len);
	return SVC_OK;
}

void
mdns_net_reply(struct mdns_net *net, const struct mdns_peer *to,
    const void *data, size_t len)
{
	(void)net;
	(void)to;
	check(data, len);
}

static void
watched(svc_watch_event event, const struct svc_record *record, void *arg)
{
	(void)arg;
	if ((event == SVC_WATCH_NODE || event == SVC_WATCH_GONE) &&
	    (record == NULL || record->n_nodes != 1))
		abort();
}

static struct mdns_node *
made(const char *service, const char *id, const char *address)
{
	struct svc_node node = {.id = id, .address = address};
	struct svc_record record = {
	    .name = service, .version = "1", .nodes = &node, .n_nodes = 1};
	struct mdns_node *ret = NULL;
	if (mdns_node_create(&record, "host", &ret, NULL) != SVC_OK)
		abort();
	return ret;
}

/* A copy is much cheaper than to make, and compress, one anew. */
static void
announce(struct mdns_responder *responder, const struct mdns_node *node)
{
	struct mdns_node *copy = svc_mem_alloc(sizeof(*copy));
	if (copy == NULL)
		abort();
	*copy = *node;
	copy->service = svc_mem_strdup(node->service);
	copy->id = svc_mem_strdup(node->id);
	svc_buf_init(&copy->txt, UINT16_MAX);
	svc_buf_init(&copy->sd_txt, UINT16_MAX);
	svc_buf_append(&copy->txt, node->txt.data, node->txt.len);
	svc_buf_append(&copy->sd_txt, node->sd_txt.data, node->sd_txt.len);
	mdns_responder_announce(responder, copy, 20000, NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int64_t steps_ms[] = {0, 1, 130, 600, 1100, 5000};
	struct mdns_net net = {.place = {.port = PORT}};
	struct mdns_responder responder;
	struct mdns_browser browser;
	char student[] = "student";
	struct mdns_watch one = {.service = student, .sink = watched};
	struct mdns_watch all = {.sink = watched};
	static struct mdns_node *nodes[3];
	if (nodes[0] == NULL) {
		svc_clock_manual();
		nodes[0] = made("ours", "ours-1", "10.1.2.3:80");
		nodes[1] = made("ours", "ours-2", "[fe80::1]:80");
		nodes[2] = made("Student", "x", "example.org:80");
	}
	mdns_responder_init(&responder, &net);
	mdns_browser_init(&browser, &net);
	for (size_t i = 0; i < 3; i++)
		announce(&responder, nodes[i]);
	if (mdns_browser_watch(&browser, &one) != SVC_OK ||
	    mdns_browser_watch(&browser, &all) != SVC_OK)
		abort();
	while (size > 3) {
		struct mdns_peer from = {.link = data[2] & 1};
		size_t len = (size_t)(data[0] << 8 | data[1]);
		from.address.v4.sin_family = AF_INET;
		from.address.v4.sin_port =
		    htons((data[2] & 2) != 0 ? PORT : 4000);
		svc_clock_advance(steps_ms[(data[2] >> 2) % 6]);
		data += 3;
		size -= 3;
		if (len > size)
			len = size;
		mdns_browser_hear(
		    &browser, data, len, svc_now_unix_ms() * 1000);
		mdns_responder_hear(&responder, data, len, &from);
		mdns_responder_tick(&responder);
		mdns_browser_tick(&browser);
		data += len;
		size -= len;
	}
	svc_clock_advance(30000);
	mdns_responder_tick(&responder);
	mdns_browser_tick(&browser);
	mdns_browser_unwatch(&browser, &all);
	mdns_browser_unwatch(&browser, &one);
	mdns_responder_fini(&responder);
	mdns_browser_fini(&browser);
	return 0;
}
