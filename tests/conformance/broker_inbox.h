/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the broker's promises share. */
#ifndef SVC_CONFORMANCE_BROKER_INBOX_H
#define SVC_CONFORMANCE_BROKER_INBOX_H

#include <conformance/broker.h>

#include <svc/clock.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Generous: only a broken broker ever waits this long. */
#define WAIT_MS 20000
#define MAX_EVENTS 512
#define MAX_MESSAGE ((int64_t)1 << 20)

/** The broker that is held against its promises. */
extern const struct svc_conformance_broker *member_setup;

/* ------------------------------------------------------------ participants */

/** Participant `who`, from 0 to 3, which ends with the test at the latest. */
struct svc_broker *member_make(unsigned who);
struct svc_broker *member_make_with(
    unsigned who, int64_t timeout_ms, size_t max_queued);
void member_connect(struct svc_broker *broker);
struct svc_broker *member_make_connected(unsigned who);
/** Fine when it is not there. */
void member_unmake(unsigned who);
/** Of each test. The second ends all participants, and so all handlers. */
int member_before(void **state);
int member_after(void **state);
/** A topic of this test only, in one of 8 static places. */
const char *member_topic(const char *name);

/* ------------------------------------------------------------------- inbox */

/** What a handler got, in order. */
struct got {
	char text[64];
	char id[40];
	char topic[96];
	char type[64];
	char trace[32];
	size_t len;
};
struct inbox {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t n;
	struct got got[MAX_EVENTS];
	void *last;     /* the whole body of the last one */
	int fail_first; /* so many are refused */
	bool blocked;   /* the handler waits until this is false */
	int inside, most_inside;
	struct svc_broker *forward;
	const char *forward_to;
};
struct inbox *inbox_make(void);
void inbox_free(struct inbox *inbox);
/** The handler; `arg` is the inbox. */
svc_err inbox_event(
    const char *topic, const struct svc_message *message, void *arg);
/** Waits until the handler ran n times (in all of `count` inboxes together).
 */
bool inbox_wait(struct inbox **inboxes, size_t count, size_t n);
/** The same of one; fails the test when it does not. */
void inbox_expect(struct inbox *inbox, size_t n);
size_t inbox_count(struct inbox *inbox);
void inbox_unblock(struct inbox *inbox);
/** Whether this text arrives so often within that time, among others. */
bool inbox_gets(
    struct inbox *inbox, const char *text, int times, int64_t within_ms);

struct svc_subscription *member_subscribe(struct svc_broker *broker,
    const char *topic, const char *queue, struct inbox *inbox);
void member_publish(
    struct svc_broker *broker, const char *topic, const char *text);

/** Publishes "late" on a thread of its own, which publisher_run is. */
struct publisher {
	struct svc_broker *broker;
	const char *topic;
	unsigned flags;
	svc_err rc;
	struct svc_error err;
	pthread_t thread;
};
void *publisher_run(void *arg);

/* The tests of broker_event.c, */
void carries_everything(void **state);
void any_bytes(void **state);
void nobody_listens(void **state);
void topics_do_not_mix(void **state);
void bad_arguments(void **state);
void foreign_payloads_are_skipped(void **state);
/* of broker_queue.c, */
void everyone_without_queue_gets_all_in_order(void **state);
void a_queue_gets_each_once(void **state);
void failure_means_redelivery(void **state);
void failure_in_a_queue(void **state);
void members_of_a_queue_leave_side_by_side(void **state);
/* of broker_handler.c, */
void unsubscribed_hears_nothing(void **state);
void handled_before_the_end(void **state);
void handlers_may_publish(void **state);
void a_handler_runs_once_at_a_time(void **state);
void a_slow_handler_stops_nobody_else(void **state);
void subscribing_before_connecting(void **state);
void a_new_topic_of_an_ended_member(void **state);
void ends_with_everything_open(void **state);
/* and of broker_server.c. */
void outlives_a_restart(void **state);
void starts_without_its_server(void **state);
void waiting_publishes_are_bounded(void **state);

#endif
