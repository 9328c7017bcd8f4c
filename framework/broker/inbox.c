/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events that wait for handlers. `lock` of an inbox guards all of it and of its
 * members; it is a leaf: no handler, callback or log line is run under it.
 *
 * Each member sleeps on a condition of its own, for one that several threads
 * sleep on can lose a wake-up (glibc's bug 25847). One that is idle is woken
 * for what has come, and wakes the next one for what it leaves.
 */
#include <svc/clock.h>
#include <svc/inbox.h>
#include <svc/log.h>

#include <string.h>

#define DEFAULT_EVENTS 1024
#define DEFAULT_BYTES ((size_t)64 << 20)

struct entry {
	struct entry *next;
	struct svc_message message;
	char *topic;
	char *content_type;
	void *data;
	size_t cost;
	int attempts;
	int64_t at_ms; /* not before this */
};

struct svc_inbox {
	pthread_mutex_t lock;
	struct svc_inbox_member *idle; /* the one that slept last first */
	pthread_cond_t done; /* something was done: room, or drained */
	struct entry *ready, **ready_end; /* in order of arrival */
	struct entry *later;              /* those that failed, soonest first */
	size_t n_ready;
	size_t n; /* with those in handlers */
	size_t n_running;
	size_t bytes;
	size_t max_events, max_bytes;
	bool closed;
	bool was_full;
	char *name;
	void (*room)(void *arg);
	void *arg;
};

struct svc_inbox_member {
	struct svc_inbox *inbox;
	svc_broker_handler handler;
	void *arg;
	pthread_t thread;
	bool stop;
	bool is_idle; /* and in the list */
	struct svc_inbox_member *next_idle;
	pthread_cond_t wake;
};

static void
entry_destroy(struct entry *entry)
{
	if (entry == NULL)
		return;
	svc_headers_destroy(entry->message.headers);
	svc_mem_free(entry->topic);
	svc_mem_free(entry->content_type);
	svc_mem_free(entry->data);
	svc_mem_free(entry);
}

static struct entry *
entry_create(const char *topic, const struct svc_message *message)
{
	struct entry *entry = svc_mem_calloc(1, sizeof(*entry));
	if (entry == NULL)
		return NULL;
	entry->topic = svc_mem_strdup(topic);
	entry->content_type = svc_mem_strdup(message->content_type);
	entry->data = svc_mem_alloc(message->len + 1);
	entry->message.headers = svc_headers_copy(message->headers);
	if (entry->topic == NULL || entry->data == NULL ||
	    entry->message.headers == NULL ||
	    (message->content_type != NULL && entry->content_type == NULL)) {
		entry_destroy(entry);
		return NULL;
	}
	if (message->len > 0)
		memcpy(entry->data, message->data, message->len);
	entry->message.content_type = entry->content_type;
	entry->message.data = entry->data;
	entry->message.len = message->len;
	entry->cost = message->len + 256;
	return entry;
}

svc_err
svc_inbox_create(
    const struct svc_inbox_config *config, struct svc_inbox **ret_inbox)
{
	struct svc_inbox *inbox = svc_mem_calloc(1, sizeof(*inbox));
	if (inbox == NULL)
		return SVC_E_NOMEM;
	inbox->name = svc_mem_strdup(config->name != NULL ? config->name : "");
	if (inbox->name == NULL) {
		svc_mem_free(inbox);
		return SVC_E_NOMEM;
	}
	pthread_mutex_init(&inbox->lock, NULL);
	svc_cond_init(&inbox->done);
	inbox->ready_end = &inbox->ready;
	inbox->max_events =
	    config->max_events > 0 ? config->max_events : DEFAULT_EVENTS;
	inbox->max_bytes =
	    config->max_bytes > 0 ? config->max_bytes : DEFAULT_BYTES;
	inbox->room = config->room;
	inbox->arg = config->arg;
	*ret_inbox = inbox;
	return SVC_OK;
}

static void
destroy_list(struct entry *entry)
{
	while (entry != NULL) {
		struct entry *next = entry->next;
		entry_destroy(entry);
		entry = next;
	}
}

void
svc_inbox_destroy(struct svc_inbox *inbox)
{
	if (inbox == NULL)
		return;
	if (inbox->n > 0) {
		char quoted[80];
		svc_log(SVC_LOG_WARN, "broker.dropped",
		    "%zu events of topic %s were not handled before the "
		    "subscription ended",
		    inbox->n,
		    svc_log_quote(inbox->name, strlen(inbox->name), quoted,
			sizeof(quoted)));
	}
	destroy_list(inbox->ready);
	destroy_list(inbox->later);
	pthread_cond_destroy(&inbox->done);
	pthread_mutex_destroy(&inbox->lock);
	svc_mem_free(inbox->name);
	svc_mem_free(inbox);
}

static bool
is_full(const struct svc_inbox *inbox)
{
	return inbox->n >= inbox->max_events ||
	       inbox->bytes >= inbox->max_bytes;
}

/* Something is to be done, or to be waited for until another moment. */
static void
wake_one(struct svc_inbox *inbox)
{
	struct svc_inbox_member *member = inbox->idle;
	if (member == NULL)
		return;
	inbox->idle = member->next_idle;
	member->is_idle = false;
	pthread_cond_signal(&member->wake);
}

/* Until it is woken, or until `at_ms`. */
static void
be_idle(struct svc_inbox_member *member, int64_t at_ms)
{
	struct svc_inbox *inbox = member->inbox;
	member->is_idle = true;
	member->next_idle = inbox->idle;
	inbox->idle = member;
	(void)svc_cond_wait(&member->wake, &inbox->lock, at_ms);
	if (!member->is_idle)
		return;
	struct svc_inbox_member **at = &inbox->idle;
	while (*at != member)
		at = &(*at)->next_idle;
	*at = member->next_idle;
	member->is_idle = false;
}

static void
append(struct svc_inbox *inbox, struct entry *entry)
{
	*inbox->ready_end = entry;
	inbox->ready_end = &entry->next;
	inbox->n_ready++;
	inbox->n++;
	inbox->bytes += entry->cost;
	wake_one(inbox);
}

svc_err
svc_inbox_put(struct svc_inbox *inbox, const char *topic,
    const struct svc_message *message, int64_t deadline_at_ms)
{
	struct entry *entry = entry_create(topic, message);
	if (entry == NULL)
		return SVC_E_NOMEM;
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&inbox->lock);
	while (!inbox->closed && is_full(inbox) && rc == SVC_OK) {
		rc = svc_cond_wait(&inbox->done, &inbox->lock, deadline_at_ms);
		/* Room that came at the last moment counts. */
		if (rc == SVC_E_TIMEDOUT && !is_full(inbox))
			rc = SVC_OK;
	}
	if (inbox->closed)
		rc = SVC_E_CLOSED;
	if (rc == SVC_OK) {
		append(inbox, entry);
		entry = NULL;
	}
	pthread_mutex_unlock(&inbox->lock);
	entry_destroy(entry);
	return rc;
}

svc_err
svc_inbox_force(struct svc_inbox *inbox, const char *topic,
    const struct svc_message *message, bool *ret_full)
{
	struct entry *entry = entry_create(topic, message);
	if (entry == NULL)
		return SVC_E_NOMEM;
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&inbox->lock);
	if (inbox->closed) {
		rc = SVC_E_CLOSED;
	} else {
		append(inbox, entry);
		entry = NULL;
		if (is_full(inbox))
			inbox->was_full = true;
		*ret_full = is_full(inbox);
	}
	pthread_mutex_unlock(&inbox->lock);
	entry_destroy(entry);
	return rc;
}

void
svc_inbox_close(struct svc_inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	inbox->closed = true;
	pthread_cond_broadcast(&inbox->done);
	pthread_mutex_unlock(&inbox->lock);
}

/* The next event that is due, or NULL and when to look again. */
static struct entry *
take(struct svc_inbox *inbox, int64_t *ret_at_ms)
{
	struct entry *entry = inbox->later;
	if (entry != NULL && entry->at_ms <= svc_now_ms()) {
		inbox->later = entry->next;
		return entry;
	}
	*ret_at_ms = entry != NULL ? entry->at_ms : INT64_MAX;
	entry = inbox->ready;
	if (entry != NULL) {
		inbox->ready = entry->next;
		if (inbox->ready == NULL)
			inbox->ready_end = &inbox->ready;
		inbox->n_ready--;
	}
	return entry;
}

static void
postpone(struct svc_inbox *inbox, struct entry *entry)
{
	int64_t pause_ms = SVC_INBOX_FIRST_MS;
	for (int i = 1; i < entry->attempts; i++) {
		if (pause_ms < SVC_INBOX_LONGEST_MS)
			pause_ms *= 2;
	}
	if (pause_ms > SVC_INBOX_LONGEST_MS)
		pause_ms = SVC_INBOX_LONGEST_MS;
	entry->at_ms = svc_now_ms() + pause_ms;
	struct entry **at = &inbox->later;
	while (*at != NULL && (*at)->at_ms <= entry->at_ms)
		at = &(*at)->next;
	entry->next = *at;
	*at = entry;
	wake_one(inbox);
}

static void
log_failure(const struct entry *entry, svc_err rc, bool given_up)
{
	char quoted[80];
	svc_log_quote(
	    entry->topic, strlen(entry->topic), quoted, sizeof(quoted));
	if (given_up)
		svc_log(SVC_LOG_ERROR, "broker.given_up",
		    "event of topic %s given up after %d attempts: %s", quoted,
		    entry->attempts, svc_err_text(rc));
	else
		svc_log(SVC_LOG_DEBUG, "broker.redeliver",
		    "event of topic %s comes again: attempt %d failed: %s",
		    quoted, entry->attempts, svc_err_text(rc));
}

static void *
run_member(void *arg)
{
	struct svc_inbox_member *member = arg;
	struct svc_inbox *inbox = member->inbox;
	pthread_mutex_lock(&inbox->lock);
	while (!member->stop) {
		int64_t at_ms;
		struct entry *entry = take(inbox, &at_ms);
		if (entry == NULL) {
			be_idle(member, at_ms);
			continue;
		}
		if (inbox->ready != NULL || inbox->later != NULL)
			wake_one(inbox);
		entry->next = NULL;
		inbox->n_running++;
		pthread_mutex_unlock(&inbox->lock);

		svc_err rc =
		    member->handler(entry->topic, &entry->message, member->arg);
		bool finished = rc == SVC_OK;
		if (!finished) {
			entry->attempts++;
			finished = entry->attempts >= SVC_INBOX_ATTEMPTS;
			log_failure(entry, rc, finished);
		}

		bool room = false;
		pthread_mutex_lock(&inbox->lock);
		inbox->n_running--;
		if (finished) {
			inbox->n--;
			inbox->bytes -= entry->cost;
			if (inbox->was_full &&
			    inbox->n <= inbox->max_events / 2 &&
			    inbox->bytes <= inbox->max_bytes / 2) {
				inbox->was_full = false;
				room = inbox->room != NULL;
			}
		} else {
			postpone(inbox, entry);
			entry = NULL;
		}
		pthread_cond_broadcast(&inbox->done);
		pthread_mutex_unlock(&inbox->lock);
		entry_destroy(entry);
		if (room)
			inbox->room(inbox->arg);
		pthread_mutex_lock(&inbox->lock);
	}
	/* What it was woken for is left to others. */
	if (inbox->ready != NULL || inbox->later != NULL)
		wake_one(inbox);
	pthread_mutex_unlock(&inbox->lock);
	return NULL;
}

svc_err
svc_inbox_join(struct svc_inbox *inbox, svc_broker_handler handler, void *arg,
    struct svc_inbox_member **ret_member)
{
	struct svc_inbox_member *member = svc_mem_calloc(1, sizeof(*member));
	if (member == NULL)
		return SVC_E_NOMEM;
	member->inbox = inbox;
	member->handler = handler;
	member->arg = arg;
	svc_cond_init(&member->wake);
	svc_err rc =
	    svc_thread_start(&member->thread, "svc-inbox", run_member, member);
	if (rc != SVC_OK) {
		pthread_cond_destroy(&member->wake);
		svc_mem_free(member);
		return rc;
	}
	*ret_member = member;
	return SVC_OK;
}

svc_err
svc_inbox_drain(struct svc_inbox *inbox, int64_t deadline_at_ms)
{
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&inbox->lock);
	while (inbox->n_ready + inbox->n_running > 0 && rc == SVC_OK)
		rc = svc_cond_wait(&inbox->done, &inbox->lock, deadline_at_ms);
	if (inbox->n_ready + inbox->n_running == 0)
		rc = SVC_OK;
	pthread_mutex_unlock(&inbox->lock);
	return rc;
}

void
svc_inbox_leave(struct svc_inbox_member *member)
{
	struct svc_inbox *inbox = member->inbox;
	pthread_mutex_lock(&inbox->lock);
	member->stop = true;
	pthread_cond_signal(&member->wake);
	pthread_mutex_unlock(&inbox->lock);
	svc_thread_join(member->thread);
	pthread_cond_destroy(&member->wake);
	svc_mem_free(member);
}
