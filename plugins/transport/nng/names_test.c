/* SPDX-License-Identifier: Apache-2.0 */
/* Names with several addresses, of which not all answer: the resolver is
 * replaced by one that knows such names. */
#include "nng_ends.h"

#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct {
	const char *name, *addresses[3];
} names[] = {
    {"first.refuses", {"127.0.0.2", "127.0.0.3"}},
    {"first.is.silent", {"127.0.0.4", "127.0.0.3"}},
    {"none.answers", {"127.0.0.2", "127.0.0.5"}},
    {"nothing", {NULL}},
};

typedef int (*look_up_fn)(const char *node, const char *service,
    const struct addrinfo *hints, struct addrinfo **ret_found);

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
    struct addrinfo **ret_found)
{
	void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
	look_up_fn look_up;
	memcpy(&look_up, &symbol, sizeof(look_up));
	int flags = hints != NULL ? hints->ai_flags : 0;
	size_t i = 0, n = sizeof(names) / sizeof(*names);
	while (i < n && (node == NULL || strcmp(names[i].name, node) != 0))
		i++;
	if (i == n || (flags & AI_NUMERICHOST))
		return look_up(node, service, hints, ret_found);
	struct addrinfo **end = ret_found;
	*end = NULL;
	/* A listener takes the last one. */
	for (int j = (flags & AI_PASSIVE) ? 1 : 0;
	     names[i].addresses[j] != NULL; j++) {
		if (look_up(names[i].addresses[j], service, hints, end) != 0)
			return EAI_MEMORY;
		while (*end != NULL)
			end = &(*end)->ai_next;
	}
	return *ret_found != NULL ? 0 : EAI_NONAME;
}

/* On the port of the listener: its queue is full, and the system drops what
 * does not fit. */
struct silent {
	int fd, filler;
};

static void
silent_open(struct silent *silent, const char *port)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
	    .sin_port = htons((uint16_t)strtol(port, NULL, 10)),
	    .sin_addr.s_addr = htonl(0x7f000004)};
	silent->fd = socket(AF_INET, SOCK_STREAM, 0);
	silent->filler = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(
	    bind(silent->fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(silent->fd, 0), 0);
	assert_int_equal(
	    connect(silent->filler, (struct sockaddr *)&at, sizeof(at)), 0);
	struct pollfd came = {.fd = silent->fd, .events = POLLIN};
	assert_int_equal(poll(&came, 1, WAIT_MS), 1);
}

static void
silent_close(struct silent *silent)
{
	close(silent->filler);
	close(silent->fd);
}

static void
addresses_are_tried(const char *scheme, const char *path)
{
	for (size_t i = 0; i < 2; i++) {
		struct end end;
		struct silent silent;
		char address[80];
		snprintf(
		    address, sizeof(address), "%s127.0.0.3:0%s", scheme, path);
		start(&end, "nng", NULL, address);
		const char *port =
		    strrchr(end.ops->listener_address(end.listener), ':') + 1;
		silent_open(&silent, port);
		snprintf(address, sizeof(address), "%s%s:%ld%s", scheme,
		    names[i].name, strtol(port, NULL, 10), path);
		struct got got = call_at(&end, address);
		if (got.code != SVC_OK)
			fail_msg("%s: %s", address, got.text);
		silent_close(&silent);
		stop(&end);
	}
}

static void
the_next_is_tried_when_one_does_not_answer(void **state)
{
	(void)state;
	addresses_are_tried("", "");
	addresses_are_tried("tcp4://", "");
}

static void
the_next_is_tried_for_a_websocket(void **state)
{
	(void)state;
	addresses_are_tried("ws://", "/svc");
}

/* One that listens on a number is called by all names of it. One that listens
 * on a name is not, for a caller cannot know that name. */
static void
a_websocket_goes_by_the_host_it_listens_on(void **state)
{
	(void)state;
	static const struct {
		const char *listens, *calls;
		bool good;
	} cases[] = {
	    {"localhost", "localhost", true},
	    {"localhost", "LOCALHOST", true},
	    {"127.0.0.1", "localhost", true},
	    {"*", "localhost", true},
	    {"*", "127.0.0.1", true},
	    {"localhost", "127.0.0.1", false},
	    {"first.refuses", "127.0.0.3", false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct end end;
		char address[80];
		snprintf(address, sizeof(address), "ws://%s:0/svc",
		    cases[i].listens);
		start(&end, "nng", NULL, address);
		const char *listens = end.ops->listener_address(end.listener);
		snprintf(address, sizeof(address), "ws://%s%.20s",
		    cases[i].calls, strrchr(listens, ':'));
		struct got got = call_at(&end, address);
		if (cases[i].good != (got.code == SVC_OK) ||
		    (!cases[i].good &&
			strstr(got.text, "by another name") == NULL))
			fail_msg("%s: %s", address, got.text);
		stop(&end);
	}
}

static void
it_is_said_why_none_answers(void **state)
{
	(void)state;
	struct end end;
	start(&end, "nng", NULL, "127.0.0.3:0");
	struct got got = call_at(&end, "none.answers:1");
	assert_int_not_equal(got.code, SVC_OK);
	assert_non_null(strstr(got.text, "none.answers:1"));
	assert_non_null(strstr(got.text, "refused"));
	got = call_at(&end, "nothing:1");
	assert_int_not_equal(got.code, SVC_OK);
	assert_non_null(strstr(got.text, "nothing:1"));
	assert_non_null(strstr(got.text, "cannot be resolved"));
	/* A family that the address has not. */
	got = call_at(&end, "tcp6://127.0.0.3:1");
	assert_int_not_equal(got.code, SVC_OK);
	assert_non_null(strstr(got.text, "cannot be resolved"));
	stop(&end);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_next_is_tried_when_one_does_not_answer),
	    cmocka_unit_test(the_next_is_tried_for_a_websocket),
	    cmocka_unit_test(a_websocket_goes_by_the_host_it_listens_on),
	    cmocka_unit_test(it_is_said_why_none_answers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
