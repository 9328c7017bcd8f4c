/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of messages that wait to be received. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stream.h"

static void
push(struct svc_stream_queue *queue, size_t len, char with)
{
	char *data = malloc(len + 1);
	memset(data, with, len);
	assert_true(svc_stream_queue_push(queue, data, len));
	free(data);
}

/* The next one is `len` times `with`. */
static void
pop(struct svc_stream_queue *queue, size_t len, char with)
{
	const void *data;
	size_t got;
	while (!svc_stream_queue_next(queue, &data, &got))
		assert_true(svc_stream_queue_take(queue));
	const char *text = data;
	assert_int_equal(got, len);
	assert_int_equal((uintptr_t)data % 16, 0);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(text[i], with);
	assert_int_equal(text[len], 0);
}

static void
messages_come_in_order(void **state)
{
	(void)state;
	static const size_t sizes[] = {
	    0, 1, 15, 16, 17, 1000, 16300, 16400, 100000, 3, 0, 0};
	const size_t n = sizeof(sizes) / sizeof(sizes[0]);
	struct svc_stream_queue queue = {0};
	const void *data;
	size_t len;
	assert_false(svc_stream_queue_take(&queue));
	assert_false(svc_stream_queue_next(&queue, &data, &len));
	for (int round = 0; round < 50; round++) {
		for (size_t i = 0; i < n; i++)
			push(&queue, sizes[i], (char)('a' + i));
		/* More comes while the first are read. */
		for (size_t i = 0; i < n / 2; i++)
			pop(&queue, sizes[i], (char)('a' + i));
		push(&queue, 7, 'z');
		for (size_t i = n / 2; i < n; i++)
			pop(&queue, sizes[i], (char)('a' + i));
		pop(&queue, 7, 'z');
	}
	assert_false(svc_stream_queue_next(&queue, &data, &len));
	assert_false(svc_stream_queue_take(&queue));
	assert_int_equal(queue.held, 0);
	svc_stream_queue_fini(&queue);
}

static void
what_is_held_is_counted(void **state)
{
	(void)state;
	struct svc_stream_queue queue = {0};
	size_t cost = svc_stream_queue_cost(1000);
	assert_true(cost >= 1001 && cost < 1064);
	assert_int_equal(svc_stream_queue_cost(SIZE_MAX), SIZE_MAX);
	for (int i = 0; i < 1000; i++)
		push(&queue, 1000, 'a');
	assert_int_equal(queue.held, 1000 * cost);
	pop(&queue, 1000, 'a');
	svc_stream_queue_drop(&queue);
	/* What was taken is still the reader's. */
	assert_true(queue.held > 0 && queue.held < 100000);
	const void *data;
	size_t len;
	while (svc_stream_queue_next(&queue, &data, &len))
		;
	assert_false(svc_stream_queue_take(&queue));
	assert_int_equal(queue.held, 0);
	push(&queue, 5, 'b');
	svc_stream_queue_fini(&queue);
}

static bool
none(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	return false;
}

static void
no_memory_loses_nothing(void **state)
{
	(void)state;
	struct svc_stream_queue queue = {0};
	push(&queue, 10000, 'a');
	svc_mem_set_hook(none, NULL);
	assert_false(svc_stream_queue_push(&queue, "", 20000));
	assert_true(svc_stream_queue_push(&queue, "bbb", 3));
	svc_mem_set_hook(NULL, NULL);
	pop(&queue, 10000, 'a');
	pop(&queue, 3, 'b');
	svc_stream_queue_fini(&queue);
}

/* Chunks are kept for who is quick, and few of them for who waits. */
static void
storage_is_kept_while_it_is_used(void **state)
{
	(void)state;
	enum { MANY = 1500, FEW = 12 };
	struct svc_stream_queue queue = {0};
	const void *data;
	size_t len;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < MANY; i++)
			push(&queue, 1000, 'a');
		for (int i = 0; i < MANY; i++)
			pop(&queue, 1000, 'a');
		assert_false(svc_stream_queue_next(&queue, &data, &len));
		assert_false(svc_stream_queue_take(&queue));
		assert_true(queue.n_spare > MANY / 17);
		assert_true(svc_stream_queue_is_fat(&queue));
		svc_mem_set_hook(none, NULL);
		for (int i = 0; i < MANY; i++)
			push(&queue, 1000, 'b');
		svc_mem_set_hook(NULL, NULL);
		for (int i = 0; i < MANY; i++)
			pop(&queue, 1000, 'b');
		/* What was read last is given back too. */
		assert_false(svc_stream_queue_next(&queue, &data, &len));
		svc_stream_queue_slim(&queue);
		assert_int_equal(queue.held, 0);
		assert_int_equal(queue.n_spare, FEW);
		assert_false(svc_stream_queue_is_fat(&queue));
	}
	/* Nothing is kept beyond what the largest window may need. */
	for (int i = 0; i < 4 * MANY; i++)
		push(&queue, 1000, 'c');
	for (int i = 0; i < 4 * MANY; i++)
		pop(&queue, 1000, 'c');
	assert_false(svc_stream_queue_take(&queue));
	assert_int_equal(queue.n_spare, 128);
	svc_stream_queue_fini(&queue);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(messages_come_in_order),
	    cmocka_unit_test(what_is_held_is_counted),
	    cmocka_unit_test(no_memory_loses_nothing),
	    cmocka_unit_test(storage_is_kept_while_it_is_used),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
