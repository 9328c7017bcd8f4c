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
#include "mdns_browser.h"
#include "mdns_net.h"
#include "mdns_node.h"
#include "mdns_responder.h"

#include <svc/clock.h>
#include <svc/log.h>
#include <svc/registry.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_MS 5000
#define RETRY_MS 1000 /* to look for interfaces, while something is wrong */
#define PACKETS_AT_ONCE 1024

enum command_kind { ANNOUNCE, WITHDRAW, LOOKUP, WATCH, UNWATCH };

struct command {
	struct command *next;
	enum command_kind kind;
	char *service;              /* LOOKUP; NULL lists all. WITHDRAW */
	char *id;                   /* WITHDRAW */
	struct mdns_node *node;     /* ANNOUNCE */
	int64_t ttl_ms;             /* ANNOUNCE */
	struct mdns_watch *watch;   /* WATCH, UNWATCH */
	struct mdns_browse *browse; /* LOOKUP, while it waits */
	uint64_t lacked;            /* LOOKUP: the table's when it began */
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
	struct mdns_watch watch;
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
	int64_t scan_at_ms; /* when to look for interfaces without news */
	char host[256];
	struct mdns_responder responder;
	struct mdns_browser browser;
	struct command *waiting;
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

/* ---------------------------------------------------------- what is heard */

static void
replies_read(struct mdns *mdns, int *budget)
{
	struct mdns_peer from;
	int64_t unix_us;
	for (int i = 0; i < 2; i++) {
		for (; *budget > 0; --*budget) {
			ssize_t n = mdns_net_receive(mdns->net.query_fd[i],
			    mdns->packet[1], sizeof(mdns->packet[1]), &from,
			    &unix_us);
			if (n < 0)
				break;
			/* Whoever is not of this network may not answer. */
			if (mdns_net_is_near(&mdns->net, &from))
				mdns_browser_hear(&mdns->browser,
				    mdns->packet[1], (size_t)n, unix_us);
		}
	}
}

/* A packet of the group is read only after all answers that arrived before
 * it: else a goodbye could overtake an answer, and its node would come back.
 */
static bool
link_read(struct mdns *mdns, int link, int *budget)
{
	struct mdns_peer from = {.link = link};
	int64_t unix_us;
	ssize_t n = mdns_net_receive(mdns->net.links[link].fd, mdns->packet[0],
	    sizeof(mdns->packet[0]), &from, &unix_us);
	replies_read(mdns, budget);
	if (n < 0)
		return false;
	mdns_browser_hear(&mdns->browser, mdns->packet[0], (size_t)n, unix_us);
	mdns_responder_hear(
	    &mdns->responder, mdns->packet[0], (size_t)n, &from);
	return true;
}

static void
packets_read(struct mdns *mdns)
{
	int budget = PACKETS_AT_ONCE;
	replies_read(mdns, &budget);
	for (int link = 0; link < MDNS_LINKS_MAX; link++) {
		if (mdns->net.links[link].fd < 0)
			continue;
		for (int i = 0; i < PACKETS_AT_ONCE; i++)
			if (!link_read(mdns, link, &budget))
				break;
	}
}

/* ------------------------------------------------------- running commands */

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
	struct mdns_browse *browse = command->browse;
	if (command->lacked != mdns->browser.table.lacked)
		svc_error_set(
		    &command->result, SVC_E_NOMEM, "no memory for an answer");
	mdns_table_each(
	    &mdns->browser.table, command->service, lookup_take, command);
	command->browse = NULL;
	mdns_browser_unref(&mdns->browser, browse);
	command_finish(mdns, command);
}

/* What is watched is known; of anything else the answers are waited for. */
static void
run_lookup(struct mdns *mdns, struct command *command)
{
	int64_t now = svc_now_ms();
	struct mdns_browse *browse =
	    mdns_browser_ref(&mdns->browser, command->service);
	if (browse == NULL) {
		svc_error_set(&command->result, SVC_E_NOMEM, "out of memory");
		command_finish(mdns, command);
		return;
	}
	command->browse = browse;
	command->lacked = mdns->browser.table.lacked;
	if (browse->synced) {
		lookup_finish(mdns, command);
		return;
	}
	if (browse->sync_at_ms == INT64_MAX &&
	    mdns_browser_ask(&mdns->browser, browse, &command->result) !=
		SVC_OK) {
		command->browse = NULL;
		mdns_browser_unref(&mdns->browser, browse);
		command_finish(mdns, command);
		return;
	}
	int64_t window = command->service != NULL ? MDNS_SERVICE_WINDOW_MS
						  : MDNS_ALL_WINDOW_MS;
	int64_t most = mdns->timeout_ms * 3 / 4;
	command->due_at_ms = now + (window < most ? window : most);
	command->last_at_ms =
	    now + (MDNS_LONG_WINDOW_MS < most ? MDNS_LONG_WINDOW_MS : most);
	command->next = mdns->waiting;
	mdns->waiting = command;
}

static int64_t
lookups_tick(struct mdns *mdns)
{
	int64_t now = svc_now_ms(), due = INT64_MAX;
	struct command **at = &mdns->waiting;
	while (*at != NULL) {
		struct command *command = *at;
		if (command->due_at_ms <= now) {
			if (command->last_at_ms <= now ||
			    mdns_browser_count(
				&mdns->browser, command->service) > 0) {
				*at = command->next;
				lookup_finish(mdns, command);
				continue;
			}
			mdns_browser_ask(&mdns->browser, command->browse, NULL);
			command->due_at_ms = command->last_at_ms;
		}
		if (command->due_at_ms < due)
			due = command->due_at_ms;
		at = &command->next;
	}
	return due;
}

/* The nodes are told of and the questions asked wherever there is somebody
 * new to hear them. */
static void
links_scan(struct mdns *mdns)
{
	svc_err before = mdns->net_error.code;
	uint64_t fresh = mdns_net_scan(&mdns->net);
	mdns->net_error.code = SVC_OK;
	mdns->scan_at_ms = INT64_MAX;
	if (mdns_net_check(&mdns->net, &mdns->net_error) != SVC_OK ||
	    mdns->net.why.code != SVC_OK || mdns->net.news_fd < 0)
		mdns->scan_at_ms = svc_now_ms() + RETRY_MS;
	if (mdns->net_error.code != SVC_OK && before == SVC_OK)
		svc_log(SVC_LOG_WARN, "mdns.down", "%s; waiting for one",
		    mdns->net_error.text);
	if (mdns->net_error.code == SVC_OK && before != SVC_OK)
		svc_log(SVC_LOG_INFO, "mdns.up",
		    "a network interface takes part in mdns again");
	if (fresh == 0)
		return;
	mdns_responder_links(&mdns->responder, fresh);
	mdns_browser_links(&mdns->browser);
}

static void
run(struct mdns *mdns, struct command *command)
{
	bool needs_net = command->kind == ANNOUNCE || command->kind == LOOKUP;
	command->next = NULL;
	if (needs_net && mdns->net.n_links == 0)
		links_scan(mdns);
	if (needs_net && mdns->net.n_links == 0) {
		command->result = mdns->net_error;
		command_finish(mdns, command);
		return;
	}
	switch (command->kind) {
	case ANNOUNCE:
		command->result.code = mdns_responder_announce(&mdns->responder,
		    command->node, command->ttl_ms, &command->result);
		command->node = NULL;
		break;
	case WITHDRAW:
		mdns_responder_withdraw(
		    &mdns->responder, command->service, command->id);
		break;
	case LOOKUP:
		run_lookup(mdns, command);
		return;
	case WATCH:
		command->result.code =
		    mdns_browser_watch(&mdns->browser, command->watch);
		break;
	case UNWATCH:
		mdns_browser_unwatch(&mdns->browser, command->watch);
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
	int64_t due = mdns_responder_tick(&mdns->responder);
	due = sooner(due, mdns_browser_tick(&mdns->browser));
	due = sooner(due, lookups_tick(mdns));
	return sooner(due, mdns->scan_at_ms);
}

static void
wait_for(struct mdns *mdns, int64_t due_at_ms)
{
	int64_t left = svc_remaining(due_at_ms);
	struct pollfd fds[MDNS_LINKS_MAX + 4];
	size_t n = mdns_net_poll(&mdns->net, fds);
	fds[n++] = (struct pollfd){.fd = mdns->wake[0], .events = POLLIN};
	/* Bounded only because poll takes an int. */
	int timeout = left < 0 ? -1 : (int)sooner(left, 60000);
	char bytes[64];
	poll(fds, n, timeout);
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
		if (mdns_net_changed(&mdns->net) ||
		    mdns->scan_at_ms <= svc_now_ms())
			links_scan(mdns);
		/* What arrived before a command is known when it runs. */
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
	while (mdns->waiting != NULL) {
		struct command *command = mdns->waiting;
		mdns->waiting = command->next;
		command_destroy(command);
	}
	while (mdns->first != NULL) {
		struct command *command = mdns->first;
		mdns->first = command->next;
		command_destroy(command);
	}
	mdns_responder_fini(&mdns->responder);
	mdns_browser_fini(&mdns->browser);
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
	pthread_mutex_init(&mdns->lock, NULL);
	svc_cond_init(&mdns->cond);
	mdns_net_init(&mdns->net, &place);
	mdns_responder_init(&mdns->responder, &mdns->net);
	mdns_browser_init(&mdns->browser, &mdns->net);
	if (gethostname(mdns->host, sizeof(mdns->host) - 1) != 0 ||
	    mdns->host[0] == '\0')
		memcpy(mdns->host, "localhost", sizeof("localhost"));
	/* Before the thread starts, so that the first op finds it open. */
	rc = mdns_net_open(&mdns->net, err);
	if (rc == SVC_OK) {
		links_scan(mdns);
		rc = svc_thread_start(&mdns->thread, "svc-mdns", loop, mdns);
		if (rc != SVC_OK)
			svc_error_set(err, rc, "cannot start a thread");
	}
	if (rc != SVC_OK) {
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
	command->ttl_ms = ttl_ms;
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
		watch->watch.service = svc_mem_strdup(service);
	svc_err rc = SVC_E_NOMEM;
	if (watch != NULL && command != NULL &&
	    (service == NULL || watch->watch.service != NULL)) {
		watch->watch.sink = sink;
		watch->watch.arg = arg;
		command->watch = &watch->watch;
		rc = command_run(self, command, SVC_FOREVER, NULL);
	}
	command_destroy(command);
	if (rc == SVC_OK) {
		*ret_watch = watch;
		return SVC_OK;
	}
	if (watch != NULL)
		svc_mem_free(watch->watch.service);
	svc_mem_free(watch);
	return svc_error_set(err, rc, "out of memory");
}

static void
mdns_unwatch(void *self, void *arg)
{
	struct watch *watch = arg;
	watch->leave.kind = UNWATCH;
	watch->leave.watch = &watch->watch;
	command_run(self, &watch->leave, SVC_FOREVER, NULL);
	svc_mem_free(watch->watch.service);
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
