/* SPDX-License-Identifier: Apache-2.0 */
/* On a host without IPv6: every interface is those of IPv4, and an address of
 * IPv6 is nothing else. The system's sockets are replaced by such. */
#include <svc/transport.h>

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

typedef int (*socket_fn)(int domain, int type, int protocol);

int
socket(int domain, int type, int protocol)
{
	void *symbol = dlsym(RTLD_NEXT, "socket");
	socket_fn make;
	memcpy(&make, &symbol, sizeof(make));
	if (domain == AF_INET6) {
		errno = EAFNOSUPPORT;
		return -1;
	}
	return make(domain, type, protocol);
}

static void
accept_none(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)first;
	(void)arg;
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static void
every_interface_is_of_ipv4_and_none_of_ipv6(void **state)
{
	(void)state;
	static const struct {
		const char *address, *starts;
	} cases[] = {{":0", "0.0.0.0:"}, {"*:0", "0.0.0.0:"},
	    {"[::]:0", "0.0.0.0:"}, {"127.0.0.1:0", "127.0.0.1:"},
	    {"[::1]:0", NULL}, {"[2001:db8::1]:0", NULL}};
	const struct svc_transport_ops *ops;
	const void *found;
	struct svc_transport_config config = {0};
	struct svc_error err;
	void *self;
	assert_int_equal(
	    svc_catalogue_find(&svc_transport_interface, "tcp", &found, &err),
	    SVC_OK);
	ops = found;
	assert_int_equal(
	    svc_executor_create(NULL, &config.executor, &err), SVC_OK);
	assert_int_equal(ops->create(&config, &self, &err), SVC_OK);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		void *listener;
		const char *starts = cases[i].starts;
		svc_err code = ops->listen(
		    self, cases[i].address, accept_none, NULL, &listener, &err);
		if (starts == NULL) {
			assert_int_equal(code, SVC_E_INVAL);
			assert_non_null(strstr(err.text, cases[i].address));
			continue;
		}
		assert_int_equal(code, SVC_OK);
		assert_memory_equal(
		    ops->listener_address(listener), starts, strlen(starts));
		ops->listener_destroy(listener);
	}
	ops->destroy(self);
	svc_executor_destroy(config.executor);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_interface_is_of_ipv4_and_none_of_ipv6),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
