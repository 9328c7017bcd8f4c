/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/reclaim.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Of the test that runs. */
static struct svc_retirement retirement;
static struct svc_retired object;
static int freed;

static void
count_freed(struct svc_retired *one)
{
	(void)one;
	freed++;
}

static int
begin(void **state)
{
	(void)state;
	freed = 0;
	object = (struct svc_retired){.free = count_freed};
	svc_retirement_init(&retirement);
	return 0;
}

static void *
retire(void *arg)
{
	(void)arg;
	svc_retire(&retirement, &object);
	return NULL;
}

static void
retire_elsewhere(void)
{
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "retirer", retire, NULL), SVC_OK);
	svc_thread_join(thread);
}

static void
frees_at_once_when_nobody_reads(void **state)
{
	(void)state;
	svc_retire(&retirement, &object);
	assert_int_equal(freed, 1);
	svc_retirement_fini(&retirement);
	assert_int_equal(freed, 1);
}

static void
keeps_what_a_read_may_have_found(void **state)
{
	(void)state;
	struct svc_reader *reader = svc_reader_enter();
	assert_non_null(reader);
	retire_elsewhere();
	assert_int_equal(freed, 0);
	assert_true(atomic_load(&retirement.waiting));
	svc_reader_leave(reader);
	svc_retirement_collect(&retirement);
	assert_int_equal(freed, 1);
	assert_false(atomic_load(&retirement.waiting));
	svc_retirement_fini(&retirement);
}

static void
ends_a_read_with_the_outermost_one(void **state)
{
	(void)state;
	struct svc_reader *reader = svc_reader_enter();
	assert_ptr_equal(svc_reader_enter_briefly(), reader);
	assert_ptr_equal(svc_reader_enter(), reader);
	retire_elsewhere();
	svc_reader_leave(reader);
	svc_reader_leave(reader);
	svc_retirement_collect(&retirement);
	assert_int_equal(freed, 0);
	svc_reader_leave(reader);
	svc_retirement_collect(&retirement);
	assert_int_equal(freed, 1);
	svc_retirement_fini(&retirement);
}

static void
frees_the_rest_in_the_end(void **state)
{
	(void)state;
	struct svc_reader *reader = svc_reader_enter();
	retire_elsewhere();
	svc_reader_leave(reader);
	assert_int_equal(freed, 0);
	svc_retirement_fini(&retirement);
	assert_int_equal(freed, 1);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, begin)
	const struct CMUnitTest tests[] = {
	    TEST(frees_at_once_when_nobody_reads),
	    TEST(keeps_what_a_read_may_have_found),
	    TEST(ends_a_read_with_the_outermost_one),
	    TEST(frees_the_rest_in_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
