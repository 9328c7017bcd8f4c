/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and listeners that end, at whatever moment. */
#include "nng_ends.h"

#include <sched.h>

/* More than nng has threads, so that all of these are at it at once. */
static void
connections_end_while_they_are_made(const char *listens)
{
	enum { CONNS = 64, ROUNDS = 50 };
	static void *conns[CONNS];
	struct end server, end;
	start(&server, "nng", NULL, listens);
	start(&end, "nng", NULL, NULL);
	const char *address = server.ops->listener_address(server.listener);
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < CONNS; i++)
			assert_int_equal(end.ops->dial(end.self, address, 5000,
					     &conns[i], NULL),
			    SVC_OK);
		for (int i = 0; i < CONNS; i++)
			end.ops->conn_destroy(conns[i]);
	}
	void *conn;
	assert_int_equal(
	    end.ops->dial(end.self, address, WAIT_MS, &conn, NULL), SVC_OK);
	assert_int_equal(call(end.ops, conn, 1).code, SVC_OK);
	end.ops->conn_destroy(conn);
	stop(&end);
	stop(&server);
}

static void
connections_may_end_while_they_are_made(void **state)
{
	(void)state;
	connections_end_while_they_are_made("127.0.0.1:0");
#ifndef __SANITIZE_ADDRESS__
	/* nng 1.5 loses some of what it had accepted of websockets whose peers
	 * leave during the handshake, which the leak checker would report. */
	connections_end_while_they_are_made("ws://127.0.0.1:0/svc");
#endif
}

/* At whatever moment of theirs: the listener ends, and the next one too. */
static void
a_listener_closes_during_handshakes(void **state)
{
	(void)state;
	enum { CONNS = 16, ROUNDS = 100 };
	void *conns[CONNS];
	struct end client;
	start(&client, "nng", NULL, NULL);
	for (int round = 0; round < ROUNDS; round++) {
		struct end server;
		start(&server, "nng", NULL, "ws://127.0.0.1:0/svc");
		const char *address =
		    server.ops->listener_address(server.listener);
		for (int i = 0; i < CONNS; i++)
			assert_int_equal(client.ops->dial(client.self, address,
					     WAIT_MS, &conns[i], NULL),
			    SVC_OK);
		for (int i = round; i > 0; i--)
			sched_yield();
		if (round % 2 == 1)
			server.ops->drain(server.listener);
		stop(&server);
		for (int i = 0; i < CONNS; i++)
			client.ops->conn_destroy(conns[i]);
	}
	stop(&client);
}

/* Connections come and go from several threads while others call. */
struct churn {
	pthread_t thread;
	struct end *end;
	const char *address;
	uint32_t good;
	char text[300]; /* why the first bad one was bad */
};

static void *
churn(void *arg)
{
	struct churn *me = arg;
	for (int i = 0; i < 50; i++) {
		void *conn;
		struct svc_error err = {0};
		struct got got = {.code = SVC_OK};
		got.code = me->end->ops->dial(
		    me->end->self, me->address, WAIT_MS, &conn, &err);
		if (got.code == SVC_OK) {
			/* Every other one is given up before it is connected.
			 */
			if (i % 2 == 0)
				got = call(me->end->ops, conn, 100);
			me->end->ops->conn_destroy(conn);
		} else {
			snprintf(got.text, sizeof(got.text), "%s", err.text);
		}
		if (got.code == SVC_OK)
			me->good++;
		else if (me->text[0] == '\0')
			snprintf(me->text, sizeof(me->text), "%d: error %d, %s",
			    i, (int)got.code, got.text);
	}
	return NULL;
}

static void
connections_come_and_go(void **state)
{
	(void)state;
	struct end server, client;
	struct churn threads[4];
	start(&server, "nng", NULL, "127.0.0.1:0");
	start(&client, "nng", NULL, NULL);
	for (int i = 0; i < 4; i++) {
		threads[i] = (struct churn){.end = &client,
		    .address = server.ops->listener_address(server.listener)};
		assert_int_equal(svc_thread_start(&threads[i].thread, "churn",
				     churn, &threads[i]),
		    SVC_OK);
	}
	for (int i = 0; i < 4; i++) {
		svc_thread_join(threads[i].thread);
		assert_string_equal(threads[i].text, "");
		assert_int_equal(threads[i].good, 50);
	}
	stop(&client);
	stop(&server);
}

/* The server goes away under its callers, many times: each call ends, and one
 * that was answered was answered whole. */
struct caller {
	pthread_t thread;
	struct end *end;
	void *conn;
	uint32_t answered, ended;
	bool bad;
};

static void *
call_until_it_ends(void *arg)
{
	struct caller *me = arg;
	for (;;) {
		struct got got = call(me->end->ops, me->conn, 5000);
		if (got.code == SVC_OK) {
			me->bad |= got.len != 5000;
			me->answered++;
		} else {
			me->bad |= got.code != SVC_E_UNAVAILABLE &&
				   got.code != SVC_E_CLOSED;
			me->ended++;
			return NULL;
		}
	}
}

static void
a_server_that_stops_ends_every_call(void **state)
{
	(void)state;
	static const char *const addresses[] = {
	    "127.0.0.1:0", "ws://127.0.0.1:0/svc"};
	for (int round = 0; round < 40; round++) {
		struct end server, client;
		struct caller callers[4];
		start(&server, "nng", NULL, addresses[round / 2 % 2]);
		start(&client, "nng", NULL, NULL);
		for (int i = 0; i < 4; i++) {
			callers[i] = (struct caller){.end = &client};
			assert_int_equal(
			    client.ops->dial(client.self,
				server.ops->listener_address(server.listener),
				5000, &callers[i].conn, NULL),
			    SVC_OK);
			assert_int_equal(
			    call(client.ops, callers[i].conn, 1).code, SVC_OK);
			assert_int_equal(
			    svc_thread_start(&callers[i].thread, "caller",
				call_until_it_ends, &callers[i]),
			    SVC_OK);
		}
		if (round % 2 == 1)
			server.ops->drain(server.listener);
		server.ops->listener_destroy(server.listener);
		server.listener = NULL;
		for (int i = 0; i < 4; i++) {
			svc_thread_join(callers[i].thread);
			assert_false(callers[i].bad);
			assert_int_equal(callers[i].ended, 1);
			client.ops->conn_destroy(callers[i].conn);
		}
		stop(&client);
		stop(&server);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(connections_may_end_while_they_are_made),
	    cmocka_unit_test(a_listener_closes_during_handshakes),
	    cmocka_unit_test(connections_come_and_go),
	    cmocka_unit_test(a_server_that_stops_ends_every_call),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
