/* SPDX-License-Identifier: Apache-2.0 */
/* Names with several addresses, of which not all answer. */
#include "names.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <svc/clock.h>
#include <unistd.h>

#include <cmocka.h>

#define MANY 3
#define WAIT_MS 60000

struct place {
	int fd; /* listens, or is only bound */
	struct sockaddr_in at;
	int filler;
};

/* Accepts connections. */
static void
place_open(struct place *place)
{
	socklen_t len = sizeof(place->at);
	*place = (struct place){
	    .fd = socket(AF_INET, SOCK_STREAM, 0),
	    .at = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
	    .filler = -1,
	};
	struct sockaddr *at = (struct sockaddr *)&place->at;
	assert_int_equal(bind(place->fd, at, len), 0);
	assert_int_equal(listen(place->fd, 0), 0);
	assert_int_equal(getsockname(place->fd, at, &len), 0);
}

/* Does not answer: the system drops what does not fit the queue. */
static void
place_fill(struct place *place)
{
	place->filler = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(place->filler, (struct sockaddr *)&place->at,
			     sizeof(place->at)),
	    0);
	struct pollfd came = {.fd = place->fd, .events = POLLIN};
	assert_int_equal(poll(&came, 1, WAIT_MS), 1);
}

static void
place_close(struct place *place)
{
	if (place->filler >= 0)
		close(place->filler);
	if (place->fd >= 0)
		close(place->fd);
}

/* Refuses. */
static void
place_shut(struct place *place)
{
	close(place->fd);
	place->fd = -1;
}

static void
chain(struct place *places, struct addrinfo *ret_list, int n)
{
	for (int i = 0; i < n; i++)
		ret_list[i] = (struct addrinfo){
		    .ai_family = AF_INET,
		    .ai_socktype = SOCK_STREAM,
		    .ai_addr = (struct sockaddr *)&places[i].at,
		    .ai_addrlen = sizeof(places[i].at),
		    .ai_next = i + 1 < n ? &ret_list[i + 1] : NULL,
		};
}

static int
port_of(int fd)
{
	struct sockaddr_in peer;
	socklen_t len = sizeof(peer);
	assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &len), 0);
	return peer.sin_port;
}

static void
the_next_is_tried_beside_those_that_do_not_answer(void **state)
{
	(void)state;
	struct place places[MANY];
	struct addrinfo list[MANY];
	bool given_up = false;
	int sys;
	for (int i = 0; i < MANY; i++)
		place_open(&places[i]);
	place_fill(&places[0]);
	place_shut(&places[1]);
	chain(places, list, MANY);
	int fd = names_connect_any(list, svc_deadline(20000), &given_up, &sys);
	assert_true(fd >= 0);
	assert_int_equal(port_of(fd), places[2].at.sin_port);
	close(fd);
	for (int i = 0; i < MANY; i++)
		place_close(&places[i]);
}

static void
it_is_said_why_none_answers(void **state)
{
	(void)state;
	struct place places[2];
	struct addrinfo list[2];
	bool given_up = false;
	int sys;
	for (int i = 0; i < 2; i++)
		place_open(&places[i]);
	place_shut(&places[0]);
	chain(places, list, 1);
	assert_int_equal(
	    names_connect_any(list, svc_deadline(20000), &given_up, &sys), -1);
	assert_int_equal(sys, ECONNREFUSED);

	place_fill(&places[1]);
	chain(places, list, 2);
	assert_int_equal(
	    names_connect_any(list, svc_deadline(50), &given_up, &sys), -1);
	assert_int_equal(sys, ETIMEDOUT);
	given_up = true;
	assert_int_equal(
	    names_connect_any(list, svc_deadline(20000), &given_up, &sys), -1);
	assert_int_equal(sys, ECANCELED);
	for (int i = 0; i < 2; i++)
		place_close(&places[i]);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_next_is_tried_beside_those_that_do_not_answer),
	    cmocka_unit_test(it_is_said_why_none_answers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
