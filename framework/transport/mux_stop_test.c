/* SPDX-License-Identifier: Apache-2.0 */
/* How long a server waits for who has not read its answers: when it stops, when
 * they are given back, and when what they belong to has failed. */
#include "mux_test.h"

#include <semaphore.h>
#include <svc/clock.h>
#include <svc/executor.h>

enum { LEN = 1 << 20 }; /* more than there is credit for */

static struct end client, server;

/* Does something on the server's loop, and waits for it. */
struct step {
	struct svc_task task;
	void (*run)(void);
	sem_t done;
};

static void
run_step(struct svc_task *task)
{
	struct step *step = (struct step *)(void *)task;
	step->run();
	sem_post(&step->done);
}

static void
on_loop(void (*run)(void))
{
	struct step step = {.task.run = run_step, .run = run};
	sem_init(&step.done, 0, 0);
	svc_loop_post(server.mux.config.loop, &step.task);
	sem_wait(&step.done);
	sem_destroy(&step.done);
}

static void
stop(void)
{
	svc_mux_attach(&server.mux);
	assert_true(svc_mux_linger(&server.mux));
}

static void
pass_half_a_second(void)
{
	server.mux.timer.fire(&server.mux.timer);
}

static void
serve(void)
{
	read_some(&server, SIZE_MAX);
	assert_int_equal(server.result, SVC_MUX_OK);
}

static void
detach(void)
{
	svc_mux_detach(&server.mux);
}

/* Half seconds until it gives up, of at most these. */
static int
waits(int most)
{
	int n = 0;
	while (n < most && !svc_mux_failed(&server.mux)) {
		on_loop(pass_half_a_second);
		n++;
	}
	return n;
}

static void
attach(void)
{
	svc_mux_attach(&server.mux);
}

/* Its answer is given and let go, more than a client that reads as `how` says
 * has credit for. */
static struct svc_executor *
answer(struct seen *mine, const struct svc_stream_events *how)
{
	struct svc_executor *executor;
	static const struct svc_executor_config config = {.loops = 1};
	uint8_t *data = pattern(LEN);
	svc_clock_manual(); /* the timer does not fire by itself */
	assert_int_equal(svc_executor_create(&config, &executor, NULL), SVC_OK);
	pair(&client, &server, NULL);
	exchange(&client, &server);
	assert_int_equal(
	    open_with(&client, mine, how, SVC_PART_END, NULL, 0), SVC_OK);
	exchange(&client, &server);
	unsigned flags = SVC_PART_HEADERS | SVC_PART_MESSAGE;
	if (how == &holder) {
		assert_int_equal(
		    send_part(&served[0], flags, data, 1000), SVC_OK);
		flags = SVC_PART_MESSAGE;
	}
	assert_int_equal(
	    send_part(&served[0], flags | SVC_PART_END, data, LEN), SVC_OK);
	let_go(&served[0]);
	free(data);
	server.mux.config.loop = svc_executor_loop(executor);
	return executor;
}

static struct svc_executor *
begin_to_stop(struct seen *mine)
{
	struct svc_executor *executor = answer(mine, &events);
	on_loop(stop);
	return executor;
}

static void
end(struct svc_executor *executor, struct seen *mine)
{
	on_loop(detach);
	server.mux.config.loop = NULL;
	svc_executor_destroy(executor);
	svc_clock_real();
	let_go(mine);
	end_finish(&client);
	end_finish(&server);
}

static void
who_pauses_gets_the_whole_answer(void **state)
{
	(void)state;
	struct seen mine;
	struct svc_executor *executor = begin_to_stop(&mine);
	/* Before each time it reads. */
	int times = 0;
	while (client.in.len > 0) {
		if (times++ < 4)
			assert_int_equal(waits(8), 8);
		read_some(&client, SIZE_MAX);
		on_loop(serve);
	}
	assert_in_range(times, 2, 20);
	assert_true(mine.ended);
	assert_int_equal(mine.bytes, LEN);
	/* It has said that it has all. */
	assert_true(server.closed);
	end(executor, &mine);
}

static void
who_says_nothing_is_given_up(void **state)
{
	(void)state;
	struct seen mine;
	struct svc_executor *executor = begin_to_stop(&mine);
	assert_in_range(waits(100), 8, 12);
	end(executor, &mine);
}

/* However much it says. */
static void
who_takes_it_too_slowly_is_given_up(void **state)
{
	(void)state;
	struct seen mine;
	struct svc_executor *executor = begin_to_stop(&mine);
	int n = 0;
	while (n < 200 && !svc_mux_failed(&server.mux)) {
		n += waits(1);
		static const struct frame ping = {.type = FRAME_PING};
		frame_encode(&server.in, &ping, NULL, 0);
		on_loop(serve);
	}
	assert_in_range(n, 30, 60);
	end(executor, &mine);
}

/* Or until it is told to wait no longer, but half a second at least. */
static void
who_has_no_time_left_is_given_up(void **state)
{
	(void)state;
	for (int64_t left_ms = -100; left_ms <= 1900; left_ms += 1000) {
		struct seen mine;
		struct svc_executor *executor = answer(&mine, &events);
		int64_t until_ms = svc_now_ms() + left_ms;
		server.mux.config.linger_until_ms = &until_ms;
		on_loop(stop);
		int n = 0;
		while (n < 100 && !svc_mux_failed(&server.mux)) {
			svc_clock_advance(500);
			on_loop(pass_half_a_second);
			n++;
		}
		assert_int_equal(n, left_ms < 500 ? 1 : left_ms < 1000 ? 2 : 4);
		end(executor, &mine);
	}
}

static bool lingers;

static void
linger_on(void)
{
	lingers = svc_mux_linger(&server.mux);
}

static void
drain_and_stop(void)
{
	svc_mux_drain(&server.mux);
	stop();
}

/* What it has sent meanwhile would be lost with the connection, unless it has
 * read before that it is left: also where nothing waits to be sent to it. */
static void
who_is_left_has_read_so(void **state)
{
	(void)state;
	for (int reads = 0; reads < 2; reads++) {
		struct seen mine;
		struct svc_executor *executor;
		static const struct svc_executor_config config = {.loops = 1};
		svc_clock_manual();
		assert_int_equal(
		    svc_executor_create(&config, &executor, NULL), SVC_OK);
		pair(&client, &server, NULL);
		exchange(&client, &server);
		server.mux.config.loop = svc_executor_loop(executor);
		on_loop(drain_and_stop);
		assert_int_equal(
		    open_with(&client, &mine, &events, SVC_PART_END, NULL, 0),
		    SVC_OK);
		on_loop(linger_on);
		assert_true(lingers);
		if (reads) {
			read_some(&client, SIZE_MAX);
			assert_true(mine.closed);
			assert_true(mine.not_run);
			on_loop(serve);
			on_loop(linger_on);
			assert_false(lingers);
		} else { /* little patience with one that is not there */
			assert_in_range(waits(100), 1, 2);
		}
		end(executor, &mine);
	}
}

/* A server that does not stop waits for as long as idle_ms. */
static void
an_end_that_is_not_read_is_reset(void **state)
{
	(void)state;
	struct seen mine;
	struct svc_executor *executor = answer(&mine, &holder);
	on_loop(attach);
	assert_int_equal(server.mux.n_lingering, 1);
	int n = 0;
	while (n < 500 && server.mux.n_lingering > 0) {
		on_loop(pass_half_a_second); /* a quarter of keepalive_ms */
		read_some(&client, SIZE_MAX);
		on_loop(serve);
		n++;
	}
	assert_in_range(n, 120, 123);
	assert_false(svc_mux_failed(&server.mux));
	assert_int_equal(mine.messages, 1);
	assert_true(mine.closed);
	assert_int_equal(mine.code, SVC_E_TIMEDOUT);
	assert_string_equal(
	    mine.text, "the end of the stream was not read in 300000 ms");
	assert_int_equal(server.mux.n_streams, 0);
	assert_int_equal(server.mux.pending, 0);
	end(executor, &mine);
}

/* A failure waits for its reader, but a server that stops does not. */
static void
a_failure_does_not_hold_up_a_stop(void **state)
{
	(void)state;
	uint8_t *data = pattern(LEN);
	for (int reads = 0; reads < 2; reads++) {
		struct seen mine;
		pair(&client, &server, NULL);
		exchange(&client, &server);
		assert_int_equal(
		    open_with(&client, &mine, reads ? &events : &holder,
			SVC_PART_END, NULL, 0),
		    SVC_OK);
		exchange(&client, &server);
		assert_int_equal(
		    send_part(&served[0], SVC_PART_HEADERS | SVC_PART_MESSAGE,
			data, 1000),
		    SVC_OK);
		assert_int_equal(
		    send_part(&served[0], SVC_PART_MESSAGE, data, LEN), SVC_OK);
		struct svc_part last = {.flags = SVC_PART_END,
		    .status = SVC_E_ABORTED,
		    .status_text = "enough"};
		assert_int_equal(
		    svc_mux_send(served[0].stream, &last, NULL), SVC_OK);
		let_go(&served[0]);
		exchange(&client, &server);
		assert_int_equal(mine.messages, 1 + reads);
		assert_int_equal(mine.ended, reads);
		assert_int_equal(server.mux.n_lingering, 1 - reads);
		assert_false(svc_mux_linger(&server.mux));
		assert_int_equal(server.mux.n_streams, 0);
		exchange(&client, &server);
		assert_int_equal(mine.code, SVC_E_ABORTED);
		if (!reads) {
			assert_true(mine.closed);
			assert_string_equal(mine.text, "enough");
		}
		let_go(&mine);
		end_finish(&client);
		end_finish(&server);
	}
	free(data);
}

/* What it finds unsent is dropped. */
static void
a_cut_does_not_wait(void **state)
{
	(void)state;
	enum { SMALL = 60000, BEFORE = 9 };
	static const struct {
		int before;        /* small ones */
		size_t len;        /* and then one of so many */
		unsigned messages; /* that come */
		bool reset;
	} rows[] = {
	    {BEFORE, SMALL, BEFORE, false},
	    {1, LEN, 1, true}, /* half of it is sent */
	    {0, LEN, 0, true},
	};
	uint8_t *data = pattern(LEN);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct seen mine;
		pair(&client, &server, NULL);
		exchange(&client, &server);
		assert_int_equal(
		    open_with(&client, &mine, &holder, SVC_PART_END, NULL, 0),
		    SVC_OK);
		exchange(&client, &server);
		unsigned flags = SVC_PART_HEADERS | SVC_PART_MESSAGE;
		for (int n = 0; n < rows[i].before; n++) {
			assert_int_equal(
			    send_part(&served[0], flags, data, SMALL), SVC_OK);
			flags = SVC_PART_MESSAGE;
		}
		assert_int_equal(
		    send_part(&served[0], flags, data, rows[i].len), SVC_OK);
		/* A message alone is granted what it needs, if its pieces come
		 * to be asked for. */
		if (rows[i].before > 0)
			exchange(&client, &server);
		struct svc_part last = {.flags = SVC_PART_END | SVC_PART_CUT,
		    .status = SVC_E_TIMEDOUT,
		    .status_text = "too late"};
		assert_int_equal(
		    svc_mux_send(served[0].stream, &last, NULL), SVC_OK);
		assert_int_equal(
		    svc_mux_send(served[0].stream, &last, NULL), SVC_E_INVAL);
		assert_int_equal(server.mux.pending, 0);
		let_go(&served[0]);
		assert_int_equal(server.mux.n_held, 0);
		assert_int_equal(server.mux.n_lingering, 0);
		exchange(&client, &server);
		assert_int_equal(mine.messages, rows[i].messages);
		assert_int_equal(mine.ended, !rows[i].reset);
		assert_int_equal(mine.closed, rows[i].reset);
		assert_int_equal(mine.code, SVC_E_TIMEDOUT);
		if (rows[i].reset)
			assert_string_equal(mine.text, "too late");
		let_go(&mine);
		end_finish(&client);
		end_finish(&server);
	}
	free(data);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_pauses_gets_the_whole_answer),
	    cmocka_unit_test(who_says_nothing_is_given_up),
	    cmocka_unit_test(who_takes_it_too_slowly_is_given_up),
	    cmocka_unit_test(who_has_no_time_left_is_given_up),
	    cmocka_unit_test(who_is_left_has_read_so),
	    cmocka_unit_test(an_end_that_is_not_read_is_reset),
	    cmocka_unit_test(a_failure_does_not_hold_up_a_stop),
	    cmocka_unit_test(a_cut_does_not_wait),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
