/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry without a server: nodes announce themselves by multicast DNS
 * and answer questions about themselves.
 *
 * One thread owns the sockets and everything else of an instance. The ops
 * queue a command for it and wait until it is done; `lock` guards the queue,
 * the commands' `done` and `abandoned`, and `stopping`. It is never held while
 * something is sent, logged or called back.
 */
#include "mdns_net.h"
#include "mdns_node.h"
#include "mdns_table.h"

#include <svc/clock.h>
#include <svc/log.h>
#include <svc/registry.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_MS 5000
#define RETRY_MS 1000 /* to open the sockets */
/* How long answers are waited for; when there were none the question is
 * asked again, and they are waited for until the second figure. */
#define SERVICE_WINDOW_MS 120
#define ALL_WINDOW_MS 160
#define LONG_WINDOW_MS 245
/* Questions of a watch are repeated after 1 s, 2 s, 4 s, ... */
#define QUERY_FIRST_MS 1000
#define QUERY_LAST_MS (60 * 60 * 1000)
#define MULTICAST_GAP_MS 1000
#define OWNERS_MAX 4096
#define OWNER_GAP_MS 500
#define PACKETS_AT_ONCE 1024
#define QUESTIONS_MAX 32
#define TTL_MAX_MS (INT64_C(0x7fffffff) * 1000)

/* After a first announcement, for those who missed it. */
static const int64_t announce_after_ms[] = {1000, 2000};
#define N_ANNOUNCE_AFTER \
	(sizeof(announce_after_ms) / sizeof(announce_after_ms[0]))

/** A node that is announced here. */
struct local {
	struct local *next;
	struct mdns_node *node;
	int64_t expires_at_ms;
	int64_t announce_at_ms; /* INT64_MAX: none due */
	size_t announced;       /* index into announce_after_ms */
	int64_t multicast_at_ms;
};

/** A service that was seen in a list, by the name that owns its nodes. */
struct owner {
	struct owner *next;
	int64_t asked_at_ms;
	char name[];
};

/** What somebody wants to know of: a service or all. */
struct browse {
	struct browse *next;
	char *service; /* NULL: all */
	char name[MDNS_NAME_SIZE];
	size_t refs;
	int64_t query_at_ms;
	int64_t interval_ms;
	int64_t sync_at_ms; /* INT64_MAX until the question was asked */
	bool synced;
	struct owner *owners; /* only of all */
	size_t n_owners;
};

enum command_kind { ANNOUNCE, WITHDRAW, LOOKUP, WATCH, UNWATCH };

struct command {
	struct command *next;
	enum command_kind kind;
	char *service;          /* LOOKUP; NULL lists all. WITHDRAW */
	char *id;               /* WITHDRAW */
	struct mdns_node *node; /* ANNOUNCE */
	int64_t ttl_ms;         /* ANNOUNCE */
	struct watch *watch;    /* WATCH, UNWATCH */
	struct browse *browse;  /* LOOKUP, while it waits */
	int64_t due_at_ms;
	int64_t last_at_ms;
	struct svc_record **records; /* what LOOKUP found */
	size_t n_records;
	size_t cap_records;
	struct svc_error result;
	bool done;
	bool abandoned;
};

struct watch {
	struct watch *next;
	char *service;
	svc_watch_sink sink;
	void *arg;
	struct browse *browse;
	bool synced;
	struct command leave; /* so that unwatch needs no memory */
};

struct mdns {
	int64_t timeout_ms;
	pthread_t thread;
	int wake[2];

	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct command *first;
	struct command **last;
	bool stopping;

	/* Of the thread alone. */
	struct mdns_net net;
	struct svc_error net_error;
	int64_t open_at_ms;
	char host[256];
	struct local *locals;
	struct browse *browses;
	struct watch *watches;
	struct command *waiting;
	struct mdns_table table;
	uint8_t packet[2][65536]; /* of the group, of our questions */
};

/* --------------------------------------------------------------- commands */

static void
command_destroy(struct command *command)
{
	if (command == NULL)
		return;
	for (size_t i = 0; i < command->n_records; i++)
		svc_record_destroy(command->records[i]);
	svc_mem_free(command->records);
	mdns_node_destroy(command->node);
	svc_mem_free(command->service);
	svc_mem_free(command->id);
	svc_mem_free(command);
}

static void
command_finish(struct mdns *mdns, struct command *command)
{
	pthread_mutex_lock(&mdns->lock);
	bool abandoned = command->abandoned;
	command->done = true;
	pthread_cond_broadcast(&mdns->cond);
	pthread_mutex_unlock(&mdns->lock);
	if (abandoned)
		command_destroy(command);
}

static void
wake(struct mdns *mdns)
{
	/* A full pipe wakes as well. */
	ssize_t n = write(mdns->wake[1], "", 1);
	(void)n;
}

/* Has the thread run it. On SVC_E_TIMEDOUT the command is the thread's. */
static svc_err
command_run(struct mdns *mdns, struct command *command, int64_t timeout_ms,
    struct svc_error *err)
{
	int64_t deadline = svc_deadline(timeout_ms);
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&mdns->lock);
	*mdns->last = command;
	mdns->last = &command->next;
	pthread_mutex_unlock(&mdns->lock);
	wake(mdns);
	pthread_mutex_lock(&mdns->lock);
	while (!command->done && rc == SVC_OK)
		rc = svc_cond_wait(&mdns->cond, &mdns->lock, deadline);
	if (command->done)
		rc = command->result.code;
	else
		command->abandoned = true;
	bool done = command->done;
	pthread_mutex_unlock(&mdns->lock);
	if (!done)
		return svc_error_set(err, SVC_E_TIMEDOUT,
		    "mdns did not answer within %lld ms",
		    (long long)timeout_ms);
	if (rc != SVC_OK && err != NULL)
		*err = command->result;
	return rc;
}

static struct command *
command_create(enum command_kind kind)
{
	struct command *command = svc_mem_calloc(1, sizeof(*command));
	if (command != NULL)
		command->kind = kind;
	return command;
}

/* ------------------------------------------------------------ the answers */

/* What is left, rounded up, so that a renewal is never too late by it. */
static uint32_t
local_ttl(const struct local *local)
{
	int64_t left = svc_remaining(local->expires_at_ms);
	return left > 0 ? (uint32_t)((left + 999) / 1000) : 1;
}

static svc_err
local_multicast(
    struct mdns *mdns, struct local *local, uint32_t ttl, struct svc_error *err)
{
	struct mdns_writer writer;
	svc_err rc =
	    mdns_node_write(local->node, MDNS_WITH_ALL, ttl, 0, NULL, &writer);
	if (rc != SVC_OK)
		svc_error_set(err, rc, "cannot write a packet");
	else
		rc = mdns_net_multicast(
		    &mdns->net, false, writer.buf.data, writer.buf.len, err);
	mdns_write_fini(&writer);
	local->multicast_at_ms = svc_now_ms();
	return rc;
}

static void
local_drop(struct mdns *mdns, struct local **at)
{
	struct local *local = *at;
	*at = local->next;
	if (mdns_net_is_open(&mdns->net))
		local_multicast(mdns, local, 0, NULL);
	mdns_node_destroy(local->node);
	svc_mem_free(local);
}

static struct local **
local_find(struct mdns *mdns, const char *service, const char *id)
{
	struct local **at = &mdns->locals;
	while (*at != NULL && (strcmp((*at)->node->service, service) != 0 ||
				  strcmp((*at)->node->id, id) != 0))
		at = &(*at)->next;
	return at;
}

/* Announcements that are due, and nodes that were not renewed. Returns when
 * to come again. */
static int64_t
locals_tick(struct mdns *mdns)
{
	int64_t now = svc_now_ms(), due = INT64_MAX;
	struct local **at = &mdns->locals;
	while (*at != NULL) {
		struct local *local = *at;
		if (local->expires_at_ms <= now) {
			local_drop(mdns, at);
			continue;
		}
		if (local->announce_at_ms <= now) {
			local_multicast(mdns, local, local_ttl(local), NULL);
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
answer_send(struct mdns *mdns, const struct asked *asked,
    struct mdns_writer *writer, svc_err rc)
{
	if (rc == SVC_OK && asked->question == NULL)
		mdns_net_multicast(
		    &mdns->net, false, writer->buf.data, writer->buf.len, NULL);
	else if (rc == SVC_OK)
		mdns_net_reply(
		    &mdns->net, asked->from, writer->buf.data, writer->buf.len);
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
listed_before(const struct mdns *mdns, const struct local *local)
{
	const struct local *other = mdns->locals;
	while (other != local &&
	       strcmp(other->node->owner, local->node->owner) != 0)
		other = other->next;
	return other != local;
}

static void
answer_list(struct mdns *mdns, const struct mdns_question *question,
    const struct asked *asked)
{
	struct mdns_writer writer;
	bool list = strcmp(question->name.text, MDNS_LIST) == 0;
	if ((question->type != MDNS_TYPE_PTR &&
		question->type != MDNS_TYPE_ANY) ||
	    (!list && strcmp(question->name.text, MDNS_ENUMERATION) != 0))
		return;
	for (const struct local *local = mdns->locals; local != NULL;
	     local = local->next) {
		if (listed_before(mdns, local))
			continue;
		uint32_t ttl = local_ttl(local);
		if (list) {
			svc_err rc = mdns_list_write(local->node, ttl,
			    asked->id, asked->question, &writer);
			answer_send(mdns, asked, &writer, rc);
			continue;
		}
		mdns_write(&writer, asked->id,
		    MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE);
		if (asked->question != NULL)
			mdns_write_question(&writer, question->name.text,
			    question->type, question->class);
		mdns_write_ptr(
		    &writer, MDNS_ENUMERATION, ttl, local->node->owner);
		answer_send(mdns, asked, &writer, mdns_write_end(&writer));
	}
}

/* A packet for each node: go-micro takes one node of a packet. */
static void
answer(struct mdns *mdns, const struct mdns_question *question,
    const struct asked *asked)
{
	int64_t now = svc_now_ms();
	for (struct local *local = mdns->locals; local != NULL;
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
		answer_send(mdns, asked, &writer, rc);
	}
	answer_list(mdns, question, asked);
}

/* A full mDNS peer asks from the group's port and gets its answer there, for
 * everybody to hear; anybody else gets it where he asked from. */
static void
query_read(struct mdns *mdns, const void *data, size_t len,
    const struct sockaddr_in *from)
{
	struct mdns_reader reader;
	struct mdns_question question;
	bool peer = ntohs(from->sin_port) == mdns->net.place.port;
	if (mdns->locals == NULL || !mdns_read(&reader, data, len) ||
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
			answer(mdns, &question, &asked);
	}
}

/* ---------------------------------------------------------- the questions */

static svc_err
ask(struct mdns *mdns, const char *name, struct svc_error *err)
{
	struct mdns_writer writer;
	mdns_write(&writer, 0, 0);
	mdns_write_question(&writer, name, MDNS_TYPE_PTR, MDNS_CLASS_IN);
	svc_err rc = mdns_write_end(&writer);
	if (rc != SVC_OK)
		svc_error_set(err, rc, "cannot write a packet");
	else
		rc = mdns_net_multicast(
		    &mdns->net, true, writer.buf.data, writer.buf.len, err);
	mdns_write_fini(&writer);
	return rc;
}

static struct browse *
browse_find(struct mdns *mdns, const char *service)
{
	struct browse *browse = mdns->browses;
	while (
	    browse != NULL && (service == NULL || browse->service == NULL
				      ? service != browse->service
				      : strcmp(browse->service, service) != 0))
		browse = browse->next;
	return browse;
}

/* NULL when memory ran out. */
static struct browse *
browse_ref(struct mdns *mdns, const char *service)
{
	struct browse *browse = browse_find(mdns, service);
	if (browse != NULL) {
		browse->refs++;
		return browse;
	}
	browse = svc_mem_calloc(1, sizeof(*browse));
	if (browse == NULL)
		return NULL;
	if (service == NULL) {
		memcpy(browse->name, MDNS_LIST, sizeof(MDNS_LIST));
	} else {
		browse->service = svc_mem_strdup(service);
		if (browse->service == NULL) {
			svc_mem_free(browse);
			return NULL;
		}
		mdns_service_name(service, browse->name);
	}
	browse->refs = 1;
	browse->query_at_ms = svc_now_ms();
	browse->interval_ms = QUERY_FIRST_MS;
	browse->sync_at_ms = INT64_MAX;
	browse->next = mdns->browses;
	mdns->browses = browse;
	return browse;
}

static void
browse_destroy(struct browse *browse)
{
	while (browse->owners != NULL) {
		struct owner *owner = browse->owners;
		browse->owners = owner->next;
		svc_mem_free(owner);
	}
	svc_mem_free(browse->service);
	svc_mem_free(browse);
}

static void
browse_unref(struct mdns *mdns, struct browse *browse)
{
	if (--browse->refs > 0)
		return;
	struct browse **at = &mdns->browses;
	while (*at != browse)
		at = &(*at)->next;
	*at = browse->next;
	browse_destroy(browse);
	mdns_table_purge(&mdns->table);
}

/* The first of these questions opens the window in which answers are
 * collected. */
static svc_err
browse_ask(struct mdns *mdns, struct browse *browse, struct svc_error *err)
{
	int64_t now = svc_now_ms();
	svc_err rc = ask(mdns, browse->name, err);
	if (rc != SVC_OK) {
		browse->query_at_ms = now + QUERY_FIRST_MS;
		return rc;
	}
	if (browse->sync_at_ms == INT64_MAX)
		browse->sync_at_ms =
		    now + (browse->service != NULL ? SERVICE_WINDOW_MS
						   : ALL_WINDOW_MS);
	browse->query_at_ms = now + browse->interval_ms;
	browse->interval_ms *= 2;
	if (browse->interval_ms > QUERY_LAST_MS)
		browse->interval_ms = QUERY_LAST_MS;
	return SVC_OK;
}

static int64_t
browses_tick(struct mdns *mdns)
{
	int64_t due = INT64_MAX;
	for (struct browse *browse = mdns->browses; browse != NULL;
	     browse = browse->next) {
		int64_t now = svc_now_ms();
		if (browse->query_at_ms <= now)
			browse_ask(mdns, browse, NULL);
		if (!browse->synced && browse->sync_at_ms <= now)
			browse->synced = true;
		if (!browse->synced && browse->sync_at_ms < due)
			due = browse->sync_at_ms;
		if (browse->query_at_ms < due)
			due = browse->query_at_ms;
	}
	for (struct watch *watch = mdns->watches; watch != NULL;
	     watch = watch->next) {
		if (watch->synced || !watch->browse->synced)
			continue;
		watch->synced = true;
		watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	}
	return due;
}

/* A service was listed: ask for its nodes, unless that was done just now. */
static void
heard_list(const char *name, void *arg)
{
	struct mdns *mdns = arg;
	struct browse *all = browse_find(mdns, NULL);
	int64_t now = svc_now_ms();
	if (all == NULL)
		return;
	struct owner *owner = all->owners;
	while (owner != NULL && strcmp(owner->name, name) != 0)
		owner = owner->next;
	if (owner == NULL) {
		size_t len = strlen(name) + 1;
		if (all->n_owners == OWNERS_MAX)
			return;
		owner = svc_mem_calloc(1, sizeof(*owner) + len);
		if (owner == NULL)
			return;
		memcpy(owner->name, name, len);
		owner->next = all->owners;
		all->owners = owner;
		all->n_owners++;
	} else if (owner->asked_at_ms + OWNER_GAP_MS > now) {
		return;
	}
	owner->asked_at_ms = now;
	ask(mdns, name, NULL);
}

/* ---------------------------------------------------------- what is heard */

static bool
table_wanted(const char *instance, void *arg)
{
	struct mdns *mdns = arg;
	size_t n = strlen(instance);
	for (const struct browse *browse = mdns->browses; browse != NULL;
	     browse = browse->next) {
		size_t m = strlen(browse->name);
		if (browse->service == NULL)
			return true;
		if (n > m + 1 && instance[n - m - 1] == '.' &&
		    strcmp(instance + n - m, browse->name) == 0)
			return true;
	}
	return false;
}

static bool
table_wanted_service(const char *service, void *arg)
{
	struct mdns *mdns = arg;
	return browse_find(mdns, NULL) != NULL ||
	       browse_find(mdns, service) != NULL;
}

static void
table_changed(svc_watch_event event, const struct svc_record *record, void *arg)
{
	struct mdns *mdns = arg;
	for (struct watch *watch = mdns->watches; watch != NULL;
	     watch = watch->next) {
		if (watch->service == NULL ||
		    strcmp(watch->service, record->name) == 0)
			watch->sink(event, record, watch->arg);
	}
}

static void
table_refresh(const char *service, void *arg)
{
	char name[MDNS_NAME_SIZE];
	mdns_service_name(service, name);
	ask(arg, name, NULL);
}

static const struct mdns_table_ops table_ops = {
    .wanted = table_wanted,
    .wanted_service = table_wanted_service,
    .changed = table_changed,
    .refresh = table_refresh,
};

/** The packet that is being read. */
struct hearing {
	struct mdns *mdns;
	int64_t unix_us;
};

static void
heard_node(const struct mdns_found *found, void *arg)
{
	const struct hearing *hearing = arg;
	mdns_table_hear(&hearing->mdns->table, found, hearing->unix_us);
}

static void
heard_listed(const char *name, void *arg)
{
	const struct hearing *hearing = arg;
	heard_list(name, hearing->mdns);
}

static void
response_read(struct mdns *mdns, const void *data, size_t len, int64_t unix_us)
{
	static const struct mdns_sink sink = {
	    .node = heard_node,
	    .listed = heard_listed,
	};
	struct hearing hearing = {.mdns = mdns, .unix_us = unix_us};
	if (mdns->browses != NULL)
		mdns_response_read(data, len, &sink, &hearing);
}

static void
replies_read(struct mdns *mdns, int *budget)
{
	struct sockaddr_in from;
	int64_t unix_us;
	for (; *budget > 0; --*budget) {
		ssize_t n = mdns_net_receive(mdns->net.query_fd,
		    mdns->packet[1], sizeof(mdns->packet[1]), &from, &unix_us);
		if (n < 0)
			return;
		response_read(mdns, mdns->packet[1], (size_t)n, unix_us);
	}
}

/* A packet of the group is read only after all answers that arrived before
 * it: else a goodbye could overtake an answer, and its node would come back.
 */
static void
packets_read(struct mdns *mdns)
{
	struct sockaddr_in from;
	int64_t unix_us;
	int budget = PACKETS_AT_ONCE;
	for (int i = 0; i < PACKETS_AT_ONCE; i++) {
		ssize_t n = mdns_net_receive(mdns->net.group_fd,
		    mdns->packet[0], sizeof(mdns->packet[0]), &from, &unix_us);
		replies_read(mdns, &budget);
		if (n < 0)
			return;
		response_read(mdns, mdns->packet[0], (size_t)n, unix_us);
		query_read(mdns, mdns->packet[0], (size_t)n, &from);
	}
}

/* ------------------------------------------------------- running commands */

static svc_err
run_announce(struct mdns *mdns, struct command *command)
{
	struct mdns_node *node = command->node;
	struct local *local = *local_find(mdns, node->service, node->id);
	bool fresh = local == NULL || !mdns_node_equal(local->node, node);
	if (local == NULL) {
		local = svc_mem_calloc(1, sizeof(*local));
		if (local == NULL)
			return svc_error_set(
			    &command->result, SVC_E_NOMEM, "out of memory");
		local->announce_at_ms = INT64_MAX;
		local->next = mdns->locals;
		mdns->locals = local;
	}
	if (fresh) {
		mdns_node_destroy(local->node);
		local->node = node;
		command->node = NULL;
		local->announced = 1;
		local->announce_at_ms = svc_now_ms() + announce_after_ms[0];
	}
	local->expires_at_ms = svc_deadline(command->ttl_ms);
	return local_multicast(mdns, local, local_ttl(local), &command->result);
}

static void
lookup_take(const struct svc_record *record, void *arg)
{
	struct command *command = arg;
	if (command->result.code != SVC_OK)
		return;
	if (command->n_records == command->cap_records) {
		size_t cap = command->cap_records * 2 + 8;
		struct svc_record **records = svc_mem_realloc(
		    command->records, cap * sizeof(struct svc_record *));
		if (records == NULL)
			goto fail;
		command->records = records;
		command->cap_records = cap;
	}
	command->records[command->n_records] = svc_record_copy(record);
	if (command->records[command->n_records] != NULL) {
		command->n_records++;
		return;
	}
fail:
	svc_error_set(&command->result, SVC_E_NOMEM, "out of memory");
}

static void
lookup_finish(struct mdns *mdns, struct command *command)
{
	struct browse *browse = command->browse;
	mdns_table_each(&mdns->table, command->service, lookup_take, command);
	command->browse = NULL;
	browse_unref(mdns, browse);
	command_finish(mdns, command);
}

/* What is watched is known; of anything else the answers are waited for. */
static void
run_lookup(struct mdns *mdns, struct command *command)
{
	int64_t now = svc_now_ms();
	struct browse *browse = browse_ref(mdns, command->service);
	if (browse == NULL) {
		svc_error_set(&command->result, SVC_E_NOMEM, "out of memory");
		command_finish(mdns, command);
		return;
	}
	command->browse = browse;
	if (browse->synced) {
		lookup_finish(mdns, command);
		return;
	}
	if (browse->sync_at_ms == INT64_MAX &&
	    browse_ask(mdns, browse, &command->result) != SVC_OK) {
		command->browse = NULL;
		browse_unref(mdns, browse);
		command_finish(mdns, command);
		return;
	}
	int64_t window =
	    command->service != NULL ? SERVICE_WINDOW_MS : ALL_WINDOW_MS;
	int64_t most = mdns->timeout_ms * 3 / 4;
	command->due_at_ms = now + (window < most ? window : most);
	command->last_at_ms =
	    now + (LONG_WINDOW_MS < most ? LONG_WINDOW_MS : most);
	command->next = mdns->waiting;
	mdns->waiting = command;
}

static void
lookup_count(const struct svc_record *record, void *arg)
{
	(void)record;
	++*(size_t *)arg;
}

static int64_t
lookups_tick(struct mdns *mdns)
{
	int64_t now = svc_now_ms(), due = INT64_MAX;
	struct command **at = &mdns->waiting;
	while (*at != NULL) {
		struct command *command = *at;
		if (command->due_at_ms <= now) {
			size_t n = 0;
			mdns_table_each(
			    &mdns->table, command->service, lookup_count, &n);
			if (n > 0 || command->last_at_ms <= now) {
				*at = command->next;
				lookup_finish(mdns, command);
				continue;
			}
			ask(mdns, command->browse->name, NULL);
			command->due_at_ms = command->last_at_ms;
		}
		if (command->due_at_ms < due)
			due = command->due_at_ms;
		at = &command->next;
	}
	return due;
}

static void
watch_tell(const struct svc_record *record, void *arg)
{
	struct watch *watch = arg;
	watch->sink(SVC_WATCH_NODE, record, watch->arg);
}

static svc_err
run_watch(struct mdns *mdns, struct watch *watch)
{
	watch->browse = browse_ref(mdns, watch->service);
	if (watch->browse == NULL)
		return SVC_E_NOMEM;
	watch->next = mdns->watches;
	mdns->watches = watch;
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	mdns_table_each(&mdns->table, watch->service, watch_tell, watch);
	return SVC_OK;
}

static void
run_unwatch(struct mdns *mdns, struct watch *watch)
{
	struct watch **at = &mdns->watches;
	while (*at != watch)
		at = &(*at)->next;
	*at = watch->next;
	browse_unref(mdns, watch->browse);
}

/* Until it succeeds the ops that need it fail with its reason. */
static void
net_try(struct mdns *mdns)
{
	if (mdns_net_is_open(&mdns->net) || svc_now_ms() < mdns->open_at_ms)
		return;
	svc_err before = mdns->net_error.code;
	mdns->open_at_ms = svc_now_ms() + RETRY_MS;
	if (mdns_net_open(&mdns->net, &mdns->net_error) == SVC_OK) {
		mdns->open_at_ms = INT64_MAX;
		mdns->net_error.code = SVC_OK;
	} else if (before == SVC_OK) {
		svc_log(SVC_LOG_WARN, "mdns.down",
		    "%s; trying again each %d ms", mdns->net_error.text,
		    RETRY_MS);
	}
}

static void
run(struct mdns *mdns, struct command *command)
{
	bool needs_net = command->kind == ANNOUNCE || command->kind == LOOKUP;
	command->next = NULL;
	if (needs_net && !mdns_net_is_open(&mdns->net)) {
		mdns->open_at_ms = svc_now_ms();
		net_try(mdns);
	}
	if (needs_net && !mdns_net_is_open(&mdns->net)) {
		command->result = mdns->net_error;
		command_finish(mdns, command);
		return;
	}
	switch (command->kind) {
	case ANNOUNCE:
		command->result.code = run_announce(mdns, command);
		break;
	case WITHDRAW:
		if (*local_find(mdns, command->service, command->id) != NULL)
			local_drop(mdns,
			    local_find(mdns, command->service, command->id));
		break;
	case LOOKUP:
		run_lookup(mdns, command);
		return;
	case WATCH:
		command->result.code = run_watch(mdns, command->watch);
		break;
	case UNWATCH:
		run_unwatch(mdns, command->watch);
		break;
	}
	command_finish(mdns, command);
}

/* ------------------------------------------------------------- the thread */

static int64_t
sooner(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
tick(struct mdns *mdns)
{
	if (!mdns_net_is_open(&mdns->net))
		return mdns->open_at_ms;
	mdns_table_tick(&mdns->table);
	int64_t due = locals_tick(mdns);
	due = sooner(due, browses_tick(mdns));
	due = sooner(due, lookups_tick(mdns));
	return sooner(due, mdns->table.due_at_ms);
}

static void
wait_for(struct mdns *mdns, int64_t due_at_ms)
{
	int64_t left = svc_remaining(due_at_ms);
	struct pollfd fds[] = {
	    {.fd = mdns->wake[0], .events = POLLIN},
	    {.fd = mdns->net.group_fd, .events = POLLIN},
	    {.fd = mdns->net.query_fd, .events = POLLIN},
	};
	/* Bounded only because poll takes an int. */
	int timeout = left < 0 ? -1 : (int)sooner(left, 60000);
	char bytes[64];
	poll(fds, sizeof(fds) / sizeof(fds[0]), timeout);
	while (read(mdns->wake[0], bytes, sizeof(bytes)) > 0)
		;
}

static void *
loop(void *arg)
{
	struct mdns *mdns = arg;
	for (;;) {
		pthread_mutex_lock(&mdns->lock);
		struct command *commands = mdns->first;
		mdns->first = NULL;
		mdns->last = &mdns->first;
		bool stopping = mdns->stopping;
		pthread_mutex_unlock(&mdns->lock);
		if (stopping)
			return NULL;
		net_try(mdns);
		/* What arrived before a command is known when it runs. */
		if (mdns_net_is_open(&mdns->net))
			packets_read(mdns);
		while (commands != NULL) {
			struct command *command = commands;
			commands = command->next;
			run(mdns, command);
		}
		wait_for(mdns, tick(mdns));
	}
}

/* ---------------------------------------------------------------- the ops */

static void
mdns_destroy(void *self)
{
	struct mdns *mdns = self;
	if (mdns == NULL)
		return;
	pthread_mutex_lock(&mdns->lock);
	mdns->stopping = true;
	pthread_mutex_unlock(&mdns->lock);
	wake(mdns);
	svc_thread_join(mdns->thread);
	/* Nobody says goodbye here: nodes stay until their TTL passes. */
	while (mdns->locals != NULL) {
		struct local *local = mdns->locals;
		mdns->locals = local->next;
		mdns_node_destroy(local->node);
		svc_mem_free(local);
	}
	while (mdns->waiting != NULL) {
		struct command *command = mdns->waiting;
		mdns->waiting = command->next;
		command_destroy(command);
	}
	while (mdns->browses != NULL) {
		struct browse *browse = mdns->browses;
		mdns->browses = browse->next;
		browse_destroy(browse);
	}
	while (mdns->first != NULL) {
		struct command *command = mdns->first;
		mdns->first = command->next;
		command_destroy(command);
	}
	mdns_table_fini(&mdns->table);
	mdns_net_close(&mdns->net);
	close(mdns->wake[0]);
	close(mdns->wake[1]);
	pthread_cond_destroy(&mdns->cond);
	pthread_mutex_destroy(&mdns->lock);
	svc_mem_free(mdns);
}

static svc_err
pipe_open(int fds[2], struct svc_error *err)
{
	if (pipe(fds) != 0)
		return svc_error_sys(err, SVC_OK, errno, "cannot make a pipe");
	for (int i = 0; i < 2; i++) {
		if (fcntl(fds[i], F_SETFD, FD_CLOEXEC) == 0 &&
		    fcntl(fds[i], F_SETFL, O_NONBLOCK) == 0)
			continue;
		int sys = errno;
		close(fds[0]);
		close(fds[1]);
		return svc_error_sys(err, SVC_OK, sys, "cannot set up a pipe");
	}
	return SVC_OK;
}

static svc_err
mdns_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	struct mdns_place place;
	svc_err rc = mdns_place_parse(config->address, &place, err);
	if (rc != SVC_OK)
		return rc;
	struct mdns *mdns = svc_mem_calloc(1, sizeof(*mdns));
	if (mdns == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	rc = pipe_open(mdns->wake, err);
	if (rc != SVC_OK) {
		svc_mem_free(mdns);
		return rc;
	}
	mdns->timeout_ms =
	    config->timeout_ms > 0 ? config->timeout_ms : TIMEOUT_MS;
	mdns->last = &mdns->first;
	mdns->open_at_ms = svc_now_ms();
	pthread_mutex_init(&mdns->lock, NULL);
	svc_cond_init(&mdns->cond);
	mdns_net_init(&mdns->net, &place);
	mdns_table_init(&mdns->table, &table_ops, mdns);
	if (gethostname(mdns->host, sizeof(mdns->host) - 1) != 0 ||
	    mdns->host[0] == '\0')
		memcpy(mdns->host, "localhost", sizeof("localhost"));
	/* Before the thread starts, so that the first op finds it open. */
	net_try(mdns);
	rc = svc_thread_start(&mdns->thread, "svc-mdns", loop, mdns);
	if (rc != SVC_OK) {
		svc_error_set(err, rc, "cannot start a thread");
		mdns_net_close(&mdns->net);
		close(mdns->wake[0]);
		close(mdns->wake[1]);
		pthread_cond_destroy(&mdns->cond);
		pthread_mutex_destroy(&mdns->lock);
		svc_mem_free(mdns);
		return rc;
	}
	*ret_self = mdns;
	return SVC_OK;
}

/* Runs a command that was made whole, and frees it unless it was left to the
 * thread. */
static svc_err
op_run(struct mdns *mdns, struct command *command, bool whole,
    struct svc_error *err)
{
	if (!whole) {
		command_destroy(command);
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	svc_err rc = command_run(mdns, command, mdns->timeout_ms, err);
	if (rc != SVC_E_TIMEDOUT)
		command_destroy(command);
	return rc;
}

static svc_err
mdns_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	struct mdns *mdns = self;
	struct mdns_node *node = NULL;
	svc_err rc = mdns_node_create(record, mdns->host, &node, err);
	if (rc != SVC_OK)
		return rc;
	struct command *command = command_create(ANNOUNCE);
	if (command == NULL) {
		mdns_node_destroy(node);
		return op_run(mdns, NULL, false, err);
	}
	command->node = node;
	command->ttl_ms =
	    ttl_ms == SVC_FOREVER || ttl_ms > TTL_MAX_MS ? TTL_MAX_MS : ttl_ms;
	return op_run(mdns, command, true, err);
}

static svc_err
mdns_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	struct command *command = command_create(WITHDRAW);
	if (record->n_nodes != 1) {
		command_destroy(command);
		return svc_error_set(err, SVC_E_INVAL,
		    "a record with %zu nodes cannot be withdrawn, it must have "
		    "one",
		    record->n_nodes);
	}
	if (command != NULL) {
		command->service = svc_mem_strdup(record->name);
		command->id = svc_mem_strdup(record->nodes[0].id);
	}
	return op_run(self, command,
	    command != NULL && command->service != NULL && command->id != NULL,
	    err);
}

static svc_err
lookup(struct mdns *mdns, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	struct command *command = command_create(LOOKUP);
	if (command != NULL && service != NULL)
		command->service = svc_mem_strdup(service);
	if (command == NULL || (service != NULL && command->service == NULL))
		return op_run(mdns, command, false, err);
	svc_err rc = command_run(mdns, command, mdns->timeout_ms, err);
	if (rc == SVC_E_TIMEDOUT)
		return rc;
	for (size_t i = 0; i < command->n_records && rc == SVC_OK; i++)
		sink(command->records[i], arg);
	command_destroy(command);
	return rc;
}

static svc_err
mdns_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	return lookup(self, service, sink, arg, err);
}

static svc_err
mdns_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	return lookup(self, NULL, sink, arg, err);
}

static svc_err
mdns_watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct watch *watch = svc_mem_calloc(1, sizeof(*watch));
	struct command *command = command_create(WATCH);
	if (watch != NULL && service != NULL)
		watch->service = svc_mem_strdup(service);
	svc_err rc = SVC_E_NOMEM;
	if (watch != NULL && command != NULL &&
	    (service == NULL || watch->service != NULL)) {
		watch->sink = sink;
		watch->arg = arg;
		command->watch = watch;
		rc = command_run(self, command, SVC_FOREVER, NULL);
	}
	command_destroy(command);
	if (rc == SVC_OK) {
		*ret_watch = watch;
		return SVC_OK;
	}
	if (watch != NULL)
		svc_mem_free(watch->service);
	svc_mem_free(watch);
	return svc_error_set(err, rc, "out of memory");
}

static void
mdns_unwatch(void *self, void *arg)
{
	struct watch *watch = arg;
	watch->leave.kind = UNWATCH;
	watch->leave.watch = watch;
	command_run(self, &watch->leave, SVC_FOREVER, NULL);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

static const struct svc_registry_ops mdns_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "mdns",
    .create = mdns_create,
    .destroy = mdns_destroy,
    .announce = mdns_announce,
    .withdraw = mdns_withdraw,
    .lookup = mdns_lookup,
    .list = mdns_list,
    .watch = mdns_watch,
    .unwatch = mdns_unwatch,
};

SVC_PLUGIN(mdns_ops);
