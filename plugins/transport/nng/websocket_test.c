/* SPDX-License-Identifier: Apache-2.0 */
/* To free a listener of websockets, when nng is done with it at once and when
 * it never is: its function for that is the test's. */
#include "nng_private.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static nng_stream_listener *freed;
static bool held; /* so long it does not return */
static atomic_bool returned;
static atomic_int warned;
static int listener; /* its address is all that is needed */

void
nng_stream_listener_free(nng_stream_listener *given)
{
	pthread_mutex_lock(&mutex);
	while (held)
		pthread_cond_wait(&changed, &mutex);
	freed = given;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&mutex);
}

static nng_stream_listener *
some_listener(void)
{
	return (nng_stream_listener *)(void *)&listener;
}

static void
count_warnings(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "nng.listener") == 0)
		atomic_fetch_add(&warned, 1);
}

static void
a_listener_is_freed(void **state)
{
	(void)state;
	freed = NULL;
	websocket_listener_free(some_listener());
	assert_ptr_equal(freed, some_listener());
	assert_int_equal(warned, 0);
}

static void *
free_it(void *arg)
{
	websocket_listener_free(arg);
	atomic_store(&returned, true);
	return NULL;
}

static void
one_that_nng_waits_in_is_left_to_it(void **state)
{
	(void)state;
	pthread_t thread;
	svc_clock_manual();
	svc_log_set_sink(count_warnings, NULL);
	freed = NULL;
	held = true;
	assert_int_equal(
	    svc_thread_start(&thread, "frees", free_it, some_listener()),
	    SVC_OK);
	while (!atomic_load(&returned)) {
		svc_clock_advance(100);
		sched_yield();
	}
	svc_thread_join(thread);
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
	assert_int_equal(warned, 1);
	pthread_mutex_lock(&mutex);
	assert_null(freed);
	held = false;
	pthread_cond_broadcast(&changed);
	while (freed == NULL)
		pthread_cond_wait(&changed, &mutex);
	pthread_mutex_unlock(&mutex);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_listener_is_freed),
	    cmocka_unit_test(one_that_nng_waits_in_is_left_to_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
