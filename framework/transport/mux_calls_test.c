/* SPDX-License-Identifier: Apache-2.0 */
/* Many calls from a thread that waits for none of them: when they are written.
 * Nobody answers; the loop is the client's. */
#include "mux_test.h"

#include <semaphore.h>
#include <svc/executor.h>

enum { MANY = 2000 };

static struct end client;
static struct seen seen[MANY];
static atomic_int writes;

/* A task that keeps the loop until it is let go. */
struct keeper {
	struct svc_task task;
	sem_t has, let_go;
};

static void
keep(struct svc_task *task)
{
	struct keeper *keeper = (struct keeper *)(void *)task;
	sem_post(&keeper->has);
	sem_wait(&keeper->let_go);
}

static void
attach(struct svc_task *task)
{
	svc_mux_attach(&client.mux);
	keep(task);
}

static void
detach(struct svc_task *task)
{
	svc_mux_detach(&client.mux);
	keep(task);
}

static void
post(struct svc_loop *loop, struct keeper *keeper,
    void (*run)(struct svc_task *))
{
	keeper->task.run = run;
	svc_loop_post(loop, &keeper->task);
	sem_wait(&keeper->has);
}

static void
write_out(struct svc_mux *mux)
{
	struct svc_buf out;
	svc_buf_init(&out, SIZE_MAX / 2);
	while (svc_mux_begin_flush(mux, &out)) {
		atomic_fetch_add(&writes, 1);
		svc_mux_end_flush(mux, &out, out.len);
	}
	svc_buf_fini(&out);
}

static const struct svc_mux_ops counting = {
    .flush = write_out, .free = freed, .close = closed};

static void
calls_in_a_row_share_writes(void **state)
{
	(void)state;
	struct keeper keeper;
	struct svc_executor *executor;
	static const struct svc_executor_config config = {.loops = 1};
	sem_init(&keeper.has, 0, 0);
	sem_init(&keeper.let_go, 0, 0);
	assert_int_equal(svc_executor_create(&config, &executor, NULL), SVC_OK);
	struct svc_loop *loop = svc_executor_loop(executor);
	begin(&client, false, NULL);
	client.mux.config.ops = &counting;
	client.mux.config.loop = loop;
	post(loop, &keeper, attach);
	/* While the loop has no time each is written by its caller, until two
	 * were close together. */
	int n = 0, before = -1;
	while (n < MANY && atomic_load(&writes) != before) {
		before = atomic_load(&writes);
		assert_int_equal(
		    open_with(&client, &seen[n++], &events, 0, NULL, 0),
		    SVC_OK);
	}
	assert_in_range(n, 2, MANY - 1);
	for (; n < MANY; n++)
		assert_int_equal(
		    open_with(&client, &seen[n], &events, 0, NULL, 0), SVC_OK);
	/* No more than 64 KiB waits for the loop. */
	assert_in_range(atomic_load(&writes), before, before + 20);
	assert_in_range(svc_mux_backlog(&client.mux), 1, 66000);
	sem_post(&keeper.let_go);
	/* The loop writes them all before it comes to this. */
	post(loop, &keeper, keep);
	assert_int_equal(svc_mux_backlog(&client.mux), 0);
	/* A caller that waits is written at once. */
	before = atomic_load(&writes);
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS, .service = "s", .endpoint = "E.e"};
	struct svc_stream_handle *waits;
	assert_int_equal(svc_mux_open(&client.mux, &first, SVC_OPEN_WAIT,
			     &events, &seen[0], &waits, NULL),
	    SVC_OK);
	assert_int_equal(atomic_load(&writes), before + 1);
	svc_mux_release(waits, SVC_E_CANCELLED);
	sem_post(&keeper.let_go);
	for (int i = 0; i < n; i++)
		let_go(&seen[i]);
	post(loop, &keeper, detach);
	sem_post(&keeper.let_go);
	svc_executor_destroy(executor);
	client.mux.config.loop = NULL;
	end_finish(&client);
	sem_destroy(&keeper.has);
	sem_destroy(&keeper.let_go);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(calls_in_a_row_share_writes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
