/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses of the host a listener takes, and what it is called by. */
#include "conformance/transport_echo.h"

#include "support/lacks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

static const struct svc_conformance_transport *setup;

/* An IPv6 address of this host, of a link or of the loopback, as it stands in
 * an address. */
static bool
find_v6(bool of_link, char *out, size_t size)
{
	struct ifaddrs *all;
	bool found = false;
	assert_int_equal(getifaddrs(&all), 0);
	for (struct ifaddrs *at = all; at != NULL && !found;
	     at = at->ifa_next) {
		struct sockaddr_in6 in6;
		char text[INET6_ADDRSTRLEN];
		if (at->ifa_addr == NULL || at->ifa_addr->sa_family != AF_INET6)
			continue;
		memcpy(&in6, at->ifa_addr, sizeof(in6));
		found = of_link ? IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr)
				: IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
		inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
		snprintf(out, size, "%s%s%s", text, of_link ? "%" : "",
		    of_link ? at->ifa_name : "");
	}
	freeifaddrs(all);
	return found;
}

static struct server
listening(const char *address)
{
	struct svc_conformance_transport at = *setup;
	struct server server;
	at.address = address;
	server_start(&server, &at, 0);
	return server;
}

/* Whether the server answers at this host, on the port it listens on. */
static bool
answers_at(struct server *server, const char *host)
{
	char address[128];
	struct reply reply;
	void *conn;
	snprintf(address, sizeof(address), "%s%s", host,
	    strrchr(server->ops->listener_address(server->listener), ':'));
	if (server->ops->dial(server->self, address, 5000, &conn, NULL) !=
	    SVC_OK)
		return false;
	reply_init(&reply);
	svc_err rc =
	    call_and_wait(server->ops, conn, "echo", "hello", 5, &reply);
	reply_fini(&reply);
	server->ops->conn_destroy(conn);
	return rc == SVC_OK;
}

static void
no_host_is_every_interface_of_both_families(void **state)
{
	(void)state;
	static const char *const every[] = {":0", "*:0", "[::]:0"};
	char v6[80];
	if (!setup->sockets)
		test_lacks("sockets");
	bool has_v6 = find_v6(false, v6, sizeof(v6));
	for (size_t i = 0; i < sizeof(every) / sizeof(every[0]); i++) {
		struct server server = listening(every[i]);
		if (!answers_at(&server, "127.0.0.1") ||
		    (has_v6 && !answers_at(&server, "[::1]")))
			fail_msg("%s does not listen on both", every[i]);
		server_stop(&server);
	}
	/* Unless one is asked for. */
	struct server server = listening("0.0.0.0:0");
	assert_true(answers_at(&server, "127.0.0.1"));
	assert_false(answers_at(&server, "[::1]"));
	server_stop(&server);
}

/* Without its interface the address of a link says nothing. */
static void
an_address_of_a_link_keeps_its_interface(void **state)
{
	(void)state;
	char host[80], address[96];
	void *listener, *conn;
	struct svc_error err;
	if (!setup->sockets)
		test_lacks("sockets");
	if (!find_v6(true, host, sizeof(host)))
		test_lacks("an IPv6 address of a link on this host");
	snprintf(address, sizeof(address), "[%s]:0", host);
	struct server server = listening(address);
	const char *told = server.ops->listener_address(server.listener);
	snprintf(address, sizeof(address), "[%s]:", host);
	assert_memory_equal(told, address, strlen(address));
	snprintf(address, sizeof(address), "[%s]", host);
	assert_true(answers_at(&server, address));

	snprintf(address, sizeof(address), "[%.*s]:0", (int)strcspn(host, "%"),
	    host);
	assert_int_equal(server.ops->listen(server.self, address, server_accept,
			     &server, &listener, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "%INTERFACE]"));
	snprintf(address, sizeof(address), "[%.*s]%s", (int)strcspn(host, "%"),
	    host, strrchr(told, ':'));
	assert_int_equal(
	    server.ops->dial(server.self, address, 5000, &conn, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "%INTERFACE]"));
	server_stop(&server);
}

int
svc_conformance_transport_address(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_host_is_every_interface_of_both_families),
	    cmocka_unit_test(an_address_of_a_link_keeps_its_interface),
	};
	setup = with;
	return cmocka_run_group_tests_name(
	    with->title != NULL ? with->title : with->plugin, tests, NULL,
	    NULL);
}
