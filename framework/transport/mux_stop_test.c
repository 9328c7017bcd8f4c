/* SPDX-License-Identifier: Apache-2.0 */
/* How long a server that stops waits for who has not read its answers. */
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

static struct svc_executor *
begin_to_stop(struct seen *mine)
{
	struct svc_executor *executor;
	static const struct svc_executor_config config = {.loops = 1};
	uint8_t *data = pattern(LEN);
	svc_clock_manual(); /* the timer does not fire by itself */
	assert_int_equal(svc_executor_create(&config, &executor, NULL), SVC_OK);
	pair(&client, &server, NULL);
	exchange(&client, &server);
	assert_int_equal(
	    open_with(&client, mine, &events, SVC_PART_END, NULL, 0), SVC_OK);
	exchange(&client, &server);
	assert_int_equal(
	    send_part(&served[0],
		SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END, data, LEN),
	    SVC_OK);
	let_go(&served[0]);
	free(data);
	server.mux.config.loop = svc_executor_loop(executor);
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

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_pauses_gets_the_whole_answer),
	    cmocka_unit_test(who_says_nothing_is_given_up),
	    cmocka_unit_test(who_takes_it_too_slowly_is_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
