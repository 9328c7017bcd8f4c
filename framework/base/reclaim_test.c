/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/reclaim.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int freed;

static void
count_freed(struct svc_retired *object)
{
	(void)object;
	freed++;
}

struct retired_by {
	struct svc_retirement *retirement;
	struct svc_retired *object;
};

static void *
retire(void *arg)
{
	struct retired_by *by = arg;
	svc_retire(by->retirement, by->object);
	return NULL;
}

static void
retire_elsewhere(struct svc_retirement *retirement, struct svc_retired *object)
{
	struct retired_by by = {retirement, object};
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "retirer", retire, &by), SVC_OK);
	svc_thread_join(thread);
}

static void
frees_at_once_when_nobody_reads(void **state)
{
	(void)state;
	struct svc_retirement retirement;
	struct svc_retired object = {.free = count_freed};
	freed = 0;
	svc_retirement_init(&retirement);
	svc_retire(&retirement, &object);
	assert_int_equal(freed, 1);
	svc_retirement_fini(&retirement);
	assert_int_equal(freed, 1);
}

static void
keeps_what_a_read_may_have_found(void **state)
{
	(void)state;
	struct svc_retirement retirement;
	struct svc_retired object = {.free = count_freed};
	freed = 0;
	svc_retirement_init(&retirement);
	struct svc_reader *reader = svc_reader_enter();
	assert_non_null(reader);
	retire_elsewhere(&retirement, &object);
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
	struct svc_retirement retirement;
	struct svc_retired object = {.free = count_freed};
	freed = 0;
	svc_retirement_init(&retirement);
	struct svc_reader *reader = svc_reader_enter();
	assert_ptr_equal(svc_reader_enter_briefly(), reader);
	assert_ptr_equal(svc_reader_enter(), reader);
	retire_elsewhere(&retirement, &object);
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
	struct svc_retirement retirement;
	struct svc_retired object = {.free = count_freed};
	freed = 0;
	svc_retirement_init(&retirement);
	struct svc_reader *reader = svc_reader_enter();
	retire_elsewhere(&retirement, &object);
	svc_reader_leave(reader);
	assert_int_equal(freed, 0);
	svc_retirement_fini(&retirement);
	assert_int_equal(freed, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(frees_at_once_when_nobody_reads),
	    cmocka_unit_test(keeps_what_a_read_may_have_found),
	    cmocka_unit_test(ends_a_read_with_the_outermost_one),
	    cmocka_unit_test(frees_the_rest_in_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
