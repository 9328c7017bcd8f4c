/* SPDX-License-Identifier: Apache-2.0 */
/* When a service announces itself, by a clock that the test moves. */
#include "service.h"

#include "service_test.h"

static atomic_bool registry_down;
static _Atomic svc_err down_code = SVC_E_UNAVAILABLE;
static atomic_int announced, told;

static svc_err
flaky_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	atomic_fetch_add(&announced, 1);
	if (atomic_load(&registry_down))
		return svc_error_set(
		    err, atomic_load(&down_code), "nobody answers");
	return svc_registry_memory.announce(self, record, ttl_ms, err);
}

/* The registry memory with another way to be announced to. */
static void
add_registry(struct svc_registry_ops *ops, const char *name,
    svc_err (*how)(void *self, const struct svc_record *record, int64_t ttl_ms,
	struct svc_error *err))
{
	*ops = svc_registry_memory;
	ops->name = name;
	ops->announce = how;
	assert_int_equal(svc_plugin_add(ops), SVC_OK);
}

/* When this one is to announce itself next. */
static int64_t
due_at_ms(struct svc_service *service)
{
	struct svc_registrar *registrar = &service->registrar;
	pthread_mutex_lock(&registrar->lock);
	int64_t at_ms = registrar->next_at_ms;
	pthread_mutex_unlock(&registrar->lock);
	return at_ms;
}

static void
those_who_come_back_are_spread_over_a_second(void **state)
{
	(void)state;
	enum { SERVICES = 20, TRIES = 5 };
	struct svc_service *services[SERVICES];
	char program[] = "program", interval[] = "--registry_interval=10m";
	char *argv[] = {program, interval, NULL};
	static struct svc_registry_ops flaky;
	add_registry(&flaky, "flaky", flaky_announce);
	svc_clock_manual();
	atomic_store(&registry_down, true);
	atomic_store(&announced, 0);
	for (int i = 0; i < SERVICES; i++) {
		services[i] = svc_new(name("crowd"), registry(flaky, "crowd"),
		    transport(memory), broker(memory), log_level("off"));
		assert_int_equal(svc_init(services[i], 2, argv), SVC_OK);
		must_start(services[i]);
	}
	/* The worst there is: all fail at the same moment, again and again. */
	for (int tries = 0; tries < TRIES; tries++) {
		svc_clock_advance(1000);
		for (int i = 0; i < SERVICES; i++)
			while (due_at_ms(services[i]) <= svc_now_ms())
				sched_yield();
	}
	assert_int_equal(atomic_load(&announced), (TRIES + 1) * SERVICES);
	int64_t now_ms = svc_now_ms(), first = INT64_MAX, last = 0;
	atomic_store(&registry_down, false);
	for (int i = 0; i < SERVICES; i++) {
		int64_t at_ms = due_at_ms(services[i]);
		first = at_ms < first ? at_ms : first;
		last = at_ms > last ? at_ms : last;
	}
	/* They share half a second; that they do not is one in a billion. */
	assert_true(first >= now_ms + 500 && last <= now_ms + 1000);
	assert_true(last - first >= 100);
	svc_clock_advance(1000);
	for (int i = 0; i < SERVICES; i++)
		while (!svc_registered(services[i]))
			sched_yield();
	for (int i = 0; i < SERVICES; i++)
		svc_free(services[i]);
	svc_clock_real();
}

static void
sink(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strncmp(line->id, "registry.", 9) == 0)
		atomic_fetch_add(&told, 1);
}

/* Each attempt of each service costs the registry the check of a password. */
static void
who_is_refused_asks_less_and_less(void **state)
{
	(void)state;
	enum { SECONDS = 100 };
	svc_clock_manual();
	svc_log_set_sink(sink, NULL);
	svc_log_set_level(SVC_LOG_INFO);
	atomic_store(&registry_down, false);
	struct svc_service *s = svc_new(name("refused"), registry(flaky, "no"),
	    transport(memory), broker(memory), ttl(30));
	must_start(s);
	atomic_store(&down_code, SVC_E_DENIED);
	atomic_store(&registry_down, true);
	atomic_store(&announced, 0);
	for (int i = 0; i < SECONDS * 10; i++) {
		svc_clock_advance(100);
		while (due_at_ms(s) <= svc_now_ms())
			sched_yield();
	}
	assert_false(svc_registered(s));
	/* Seven within the first 13 s, then one every 5 to 10 s. */
	assert_in_range(atomic_load(&announced), 12, 28);
	assert_int_equal(atomic_load(&told), 1);
	atomic_store(&registry_down, false);
	svc_clock_advance(10000);
	while (!svc_registered(s))
		sched_yield();
	svc_free(s);
	/* What ends a start is told by it and not logged besides. */
	atomic_store(&told, 0);
	atomic_store(&registry_down, true);
	s = svc_new(name("refused"), registry(flaky, "no"), transport(memory),
	    broker(memory));
	assert_int_equal(svc_start(s), SVC_E_DENIED);
	assert_string_equal(svc_error_text(s), "nobody answers");
	assert_int_equal(atomic_load(&told), 0);
	svc_free(s);
	atomic_store(&down_code, SVC_E_UNAVAILABLE);
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
}

/* A registry that takes so long, by a clock that it alone moves. */
static _Atomic int64_t slow_ms;
static atomic_int slow_begun, slow_ended;

/* What waits for a count cannot wait by the clock that the count moves. */
static void
wait_count(const atomic_int *count, int wanted)
{
	while (atomic_load(count) < wanted)
		sched_yield();
}

static svc_err
slow_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	atomic_fetch_add(&slow_begun, 1);
	svc_clock_advance(atomic_load(&slow_ms));
	svc_err code = svc_registry_memory.announce(self, record, ttl_ms, err);
	atomic_fetch_add(&slow_ended, 1);
	return code;
}

static void
intervals_count_from_where_an_announcement_began(void **state)
{
	(void)state;
	static struct svc_registry_ops slow;
	add_registry(&slow, "slow", slow_announce);
	svc_clock_manual();
	struct svc_service *s = svc_new(
	    name("student"), registry(slow), transport(memory), broker(memory));
	char program[] = "program", ttl[] = "--registry_ttl=3s";
	char interval[] = "--registry_interval=1s";
	char *argv[] = {program, ttl, interval, NULL};
	assert_int_equal(svc_init(s, 3, argv), SVC_OK);
	atomic_store(&slow_ms, 700);
	must_start(s);
	/* 300 ms of the interval are left; they end when the clock says so,
	 * and no time passes otherwise. */
	for (int n = 2; n < 6; n++) {
		wait_count(&slow_ended, n - 1);
		assert_int_equal(atomic_load(&slow_begun), n - 1);
		svc_clock_advance(300);
		wait_count(&slow_begun, n);
	}
	/* Slower than the interval: one after the other, with nobody there to
	 * move the clock. */
	atomic_store(&slow_ms, 1200);
	wait_count(&slow_ended, 5);
	svc_clock_advance(300);
	wait_count(&slow_begun, 12);
	atomic_store(&slow_ms, 0);
	svc_free(s);
	svc_clock_real();
}

static svc_err
take_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)ttl_ms;
	(void)err;
	return SVC_OK;
}

static void
a_registry_that_shows_nobody_is_not_waited_for(void **state)
{
	(void)state;
	static struct svc_registry_ops blind;
	add_registry(&blind, "blind", take_announce);
	/* A clock that stands still: a wait for it would never end. */
	svc_clock_manual();
	struct svc_service *s = svc_new(name("unseen"), registry(blind, "un"),
	    transport(memory), broker(memory));
	must_start(s);
	assert_true(svc_registered(s));
	svc_free(s);
	svc_clock_real();
}

/* A registry whose server takes what it is told and falls silent: each op lasts
 * as long as it may, by the clock. */
static atomic_bool silent;
static atomic_int silent_ops;
static _Atomic int64_t silent_withdrawn_ms;
static struct gate asked, answers;

static svc_err
silent_op(int64_t timeout_ms, struct svc_error *err)
{
	atomic_fetch_add(&silent_ops, 1);
	svc_clock_advance(timeout_ms);
	return svc_error_set(err, SVC_E_TIMEDOUT, "silence");
}

static svc_err
silent_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    int64_t timeout_ms, struct svc_error *err)
{
	svc_err code = svc_registry_memory.announce(self, record, ttl_ms, err);
	if (!atomic_load(&silent))
		return code;
	int64_t until_ms = svc_deadline(timeout_ms);
	gate_add(&asked);
	gate_wait(&answers, 1);
	return silent_op(svc_remaining(until_ms), err);
}

static svc_err
silent_withdraw(void *self, const struct svc_record *record, int64_t timeout_ms,
    struct svc_error *err)
{
	if (!atomic_load(&silent))
		return svc_registry_memory.withdraw(self, record, err);
	atomic_store(&silent_withdrawn_ms, timeout_ms);
	return silent_op(timeout_ms, err);
}

static char left_text[256];

static void
left_sink(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "registry.withdraw") == 0)
		snprintf(left_text, sizeof(left_text), "%s", line->text);
}

static struct svc_service *
start_silent(void)
{
	static struct svc_registry_ops ops;
	if (ops.name == NULL) {
		ops = svc_registry_memory;
		ops.name = "silent";
		ops.announce_within = silent_announce;
		ops.withdraw_within = silent_withdraw;
		assert_int_equal(svc_plugin_add(&ops), SVC_OK);
	}
	svc_clock_manual();
	left_text[0] = '\0';
	svc_log_set_sink(left_sink, NULL);
	svc_log_set_level(SVC_LOG_INFO);
	atomic_store(&silent, false);
	atomic_store(&silent_ops, 0);
	gate_init(&asked);
	gate_init(&answers);
	struct svc_service *s = svc_new(name("left"), id("left-1"),
	    registry(silent, "left"), transport(memory), broker(memory));
	char program[] = "program", ttl[] = "--registry_ttl=30s";
	char timeout[] = "--registry_timeout=4s";
	char *argv[] = {program, ttl, timeout, NULL};
	assert_int_equal(svc_init(s, 3, argv), SVC_OK);
	must_start(s);
	return s;
}

static void
a_stop_takes_no_longer_than_one_op(void **state)
{
	(void)state;
	struct svc_service *s = start_silent();
	atomic_store(&silent, true);
	gate_add(&answers);
	int64_t since_ms = svc_now_ms();
	svc_free(s);
	assert_int_equal(svc_now_ms() - since_ms, 4000);
	/* The mark, and in the time that it leaves the withdrawal. */
	assert_int_equal(atomic_load(&silent_ops), 2);
	assert_int_equal(atomic_load(&silent_withdrawn_ms), 2000);
	assert_string_equal(left_text,
	    "registry silent did not take back left-1, which may be left in it "
	    "until its ttl (30 s) has passed: silence");
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
}

static void *
free_it(void *arg)
{
	svc_free(arg);
	return NULL;
}

static void
an_announcement_under_way_counts(void **state)
{
	(void)state;
	pthread_t ending;
	struct svc_service *s = start_silent();
	atomic_store(&silent, true);
	svc_clock_advance(10000);
	gate_wait(&asked, 1);
	/* It began a second before the stop. */
	svc_clock_advance(1000);
	int64_t since_ms = svc_now_ms();
	assert_int_equal(svc_thread_start(&ending, "ends", free_it, s), SVC_OK);
	while (!atomic_load(&s->registrar.draining))
		sched_yield();
	gate_add(&answers);
	svc_thread_join(ending);
	/* So it ended a second before its end, with a second left. */
	assert_int_equal(svc_now_ms() - since_ms, 4000);
	assert_int_equal(atomic_load(&silent_ops), 2);
	assert_int_equal(atomic_load(&silent_withdrawn_ms), 1000);
	assert_non_null(strstr(left_text, "left-1"));
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
}

static void
what_may_have_been_announced_is_withdrawn(void **state)
{
	(void)state;
	struct svc_record_list list = {0};
	struct svc_registry *other = NULL;
	const struct svc_registry_config config = {.address = "left"};
	assert_int_equal(svc_registry_create_ops(
			     &svc_registry_memory, &config, &other, NULL),
	    SVC_OK);
	struct svc_service *s = start_silent();
	gate_add(&answers);
	/* It fell silent, and its last answer said nothing of that it has it.
	 */
	atomic_store(&silent, true);
	svc_clock_advance(10000);
	while (svc_registered(s))
		sched_yield();
	atomic_store(&silent, false);
	assert_int_equal(
	    svc_registry_lookup(other, "left", &list, NULL), SVC_OK);
	svc_record_list_fini(&list);
	svc_free(s);
	assert_int_equal(
	    svc_registry_lookup(other, "left", &list, NULL), SVC_E_NOT_FOUND);
	assert_string_equal(left_text, "");
	svc_registry_destroy(other);
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(those_who_come_back_are_spread_over_a_second),
	    cmocka_unit_test(who_is_refused_asks_less_and_less),
	    cmocka_unit_test(intervals_count_from_where_an_announcement_began),
	    cmocka_unit_test(a_registry_that_shows_nobody_is_not_waited_for),
	    cmocka_unit_test(a_stop_takes_no_longer_than_one_op),
	    cmocka_unit_test(an_announcement_under_way_counts),
	    cmocka_unit_test(what_may_have_been_announced_is_withdrawn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
