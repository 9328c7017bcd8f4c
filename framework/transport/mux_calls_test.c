/* SPDX-License-Identifier: Apache-2.0 */
/* When many calls and many answers are written, and what is known of them when
 * the connection fails meanwhile. */
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

static struct svc_executor *
make_loop(struct keeper *keeper)
{
	static const struct svc_executor_config config = {.loops = 1};
	struct svc_executor *executor;
	sem_init(&keeper->has, 0, 0);
	sem_init(&keeper->let_go, 0, 0);
	assert_int_equal(svc_executor_create(&config, &executor, NULL), SVC_OK);
	return executor;
}

/* With the keeper's last task let go. */
static void
end_loop(struct svc_executor *executor, struct keeper *keeper)
{
	sem_post(&keeper->let_go);
	svc_executor_destroy(executor);
	sem_destroy(&keeper->has);
	sem_destroy(&keeper->let_go);
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

/* Nobody answers; the loop is the client's. */
static void
calls_in_a_row_share_writes(void **state)
{
	(void)state;
	struct keeper keeper;
	struct svc_executor *executor = make_loop(&keeper);
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
	end_loop(executor, &keeper);
	client.mux.config.loop = NULL;
	end_finish(&client);
}

/* The loop is the server's; its requests came in one read. */
static struct end server;
static int n_run, wrote_before_last;

static void
run_and_answer(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct svc_part answer = {.flags = SVC_PART_HEADERS | SVC_PART_END};
	(void)first;
	(void)arg;
	n_run++;
	wrote_before_last = atomic_load(&writes);
	stream->events = &events;
	assert_int_equal(svc_mux_answer(stream, &answer, NULL), SVC_OK);
}

static void
read_batch(struct svc_task *task)
{
	size_t at = 0;
	if (n_run == 0)
		svc_mux_attach(&server.mux);
	n_run = 0;
	server.result = svc_mux_input(
	    &server.mux, server.in.data, server.in.len, &at, &server.err);
	svc_buf_consume(&server.in, at);
	svc_mux_rest(&server.mux);
	write_out(&server.mux);
	keep(task);
}

static void
detach_server(struct svc_task *task)
{
	svc_mux_detach(&server.mux);
	keep(task);
}

/* How many writes came before the last of `n` requests ran. */
static int
writes_within(int n, struct svc_loop *loop, struct keeper *keeper)
{
	atomic_store(&writes, 0);
	for (int i = 0; i < n; i++)
		assert_int_equal(open_with(&client, &seen[i], &events,
				     SVC_PART_END, NULL, 0),
		    SVC_OK);
	post(loop, keeper, read_batch);
	assert_int_equal(server.result, SVC_MUX_OK);
	assert_int_equal(n_run, n);
	assert_int_equal(atomic_load(&writes), wrote_before_last + 1);
	sem_post(&keeper->let_go);
	for (int i = 0; i < n; i++)
		let_go(&seen[i]);
	svc_buf_clear(&server.in); /* the resets, of what was answered */
	return wrote_before_last;
}

static void
half_of_a_batch_is_answered_early(void **state)
{
	(void)state;
	struct keeper keeper;
	struct svc_executor *executor = make_loop(&keeper);
	struct svc_loop *loop = svc_executor_loop(executor);
	pair(&client, &server, NULL);
	read_some(&server, SIZE_MAX);
	server.mux.config.ops = &counting;
	server.mux.config.loop = loop;
	server.mux.config.accept = run_and_answer;
	/* As many as a turn takes: the peer has work when half is done. */
	assert_int_equal(writes_within(64, loop, &keeper), 1);
	/* A few more than half are not worth a write of their own. */
	assert_int_equal(writes_within(40, loop, &keeper), 0);
	assert_int_equal(writes_within(8, loop, &keeper), 0);
	assert_int_equal(writes_within(60, loop, &keeper), 1);
	post(loop, &keeper, detach_server);
	end_loop(executor, &keeper);
	server.mux.config.loop = NULL;
	end_finish(&client);
	end_finish(&server);
}

/* Comes to the client; `header` may be NULL. */
static void
reply(uint32_t id, svc_err status, const char *header, size_t len)
{
	static const uint8_t data[4] = {0, 1, 2, 3};
	struct svc_headers *headers = NULL;
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .content_type = "t/j",
	    .data = data,
	    .len = len,
	    .status = status,
	};
	if (header != NULL) {
		headers = svc_headers_create();
		assert_int_equal(svc_headers_set(headers, "h", header), SVC_OK);
		part.headers = headers;
	}
	assert_int_equal(
	    part_encode(&client.in, id, false, &part, 1000, NULL), SVC_OK);
	svc_headers_destroy(headers);
}

static void
read_replies(struct svc_task *task)
{
	size_t at = 0;
	client.result = svc_mux_input(
	    &client.mux, client.in.data, client.in.len, &at, &client.err);
	svc_buf_consume(&client.in, at);
	svc_mux_rest(&client.mux);
	keep(task);
}

/* Replies in one read that look alike and others among them. */
static void
replies_alike_and_others(void **state)
{
	(void)state;
	struct keeper keeper;
	struct svc_executor *executor = make_loop(&keeper);
	struct svc_loop *loop = svc_executor_loop(executor);
	pair(&client, &server, NULL);
	read_some(&client, SIZE_MAX); /* the hello */
	client.mux.config.loop = loop;
	post(loop, &keeper, attach);
	sem_post(&keeper.let_go);
	for (int i = 0; i < 10; i++)
		assert_int_equal(open_with(&client, &seen[i], &events,
				     i == 6 ? 0 : SVC_PART_END, NULL, 0),
		    SVC_OK);
	let_go(&seen[3]); /* nobody wants its reply */
	for (uint32_t id = 1; id <= 10; id++)
		reply(id, id == 5 ? SVC_E_ABORTED : SVC_OK,
		    id == 9 ? "v" : NULL, id % 4);
	/* The last one has not come as a whole. */
	uint8_t last = client.in.data[client.in.len - 1];
	client.in.len--;
	post(loop, &keeper, read_replies);
	assert_int_equal(client.result, SVC_MUX_OK);
	for (int i = 0; i < 9; i++) {
		if (i == 3)
			continue;
		assert_true(seen[i].ended);
		assert_int_equal(seen[i].parts, 1);
		assert_int_equal(seen[i].code, i == 4 ? SVC_E_ABORTED : SVC_OK);
		assert_int_equal(seen[i].last_len, (i + 1) % 4);
		assert_string_equal(seen[i].header, i == 8 ? "v" : "");
	}
	assert_int_equal(seen[3].parts, 0);
	assert_int_equal(seen[9].parts, 0);
	sem_post(&keeper.let_go);
	assert_int_equal(svc_buf_append(&client.in, &last, 1), SVC_OK);
	post(loop, &keeper, read_replies);
	assert_int_equal(seen[9].parts, 1);
	assert_true(seen[9].ended);
	sem_post(&keeper.let_go);
	/* A second reply is one to nothing. */
	reply(2, SVC_OK, NULL, 1);
	post(loop, &keeper, read_replies);
	assert_int_equal(client.result, SVC_MUX_OK);
	assert_int_equal(seen[1].parts, 1);
	sem_post(&keeper.let_go);
	for (int i = 0; i < 10; i++)
		if (seen[i].stream != NULL)
			let_go(&seen[i]);
	assert_int_equal(client.mux.n_streams, 0);
	assert_int_equal(client.mux.n_held, 0);
	post(loop, &keeper, detach);
	end_loop(executor, &keeper);
	client.mux.config.loop = NULL;
	end_finish(&client);
	end_finish(&server);
}

/* What the flusher has may have left; how much did not, it says in the end. */
static void
what_is_being_written_may_have_run(void **state)
{
	(void)state;
	struct svc_buf out;
	struct seen calls[3];
	svc_buf_init(&out, SIZE_MAX / 2);
	for (int told = 0; told < 2; told++) {
		begin(&client, false, NULL);
		flush(&client.mux);
		client.mux.config.ops = &holding;
		for (int i = 0; i < 2; i++)
			open_with(&client, &calls[i], &events,
			    SVC_PART_MESSAGE | SVC_PART_END, "m", 1);
		assert_true(svc_mux_begin_flush(&client.mux, &out));
		open_with(&client, &calls[2], &events,
		    SVC_PART_MESSAGE | SVC_PART_END, "m", 1);
		if (told) /* the first one went */
			svc_mux_end_flush(&client.mux, &out, out.len / 2);
		svc_mux_fail(&client.mux, SVC_E_UNAVAILABLE, "gone");
		assert_int_equal(
		    svc_mux_close_streams(&client.mux), SVC_MUX_OK);
		if (!told)
			svc_mux_end_flush(&client.mux, &out, 0);
		assert_false(calls[0].not_run);
		assert_int_equal(calls[1].not_run, told);
		assert_true(calls[2].not_run);
		for (int i = 0; i < 3; i++)
			let_go(&calls[i]);
		end_finish(&client);
	}
	svc_buf_fini(&out);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(calls_in_a_row_share_writes),
	    cmocka_unit_test(half_of_a_batch_is_answered_early),
	    cmocka_unit_test(replies_alike_and_others),
	    cmocka_unit_test(what_is_being_written_may_have_run),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
