/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SERVICE_TEST_H
#define SVC_SERVICE_TEST_H

/* What the tests of this room share: services in a registry of each test's
 * own, and waiting for other threads. */

#include <svc/svc.h>

#include <arpa/inet.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "support/lacks.h"

#define UNUSED __attribute__((unused))

static const char *transport_name UNUSED; /* of the group that runs */
static char registry_name[32] UNUSED;     /* of the test that runs */

/* A test waits for other threads at most this long. */
#define PATIENCE_MS 20000

struct gate { /* opened once */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int count;
};

static UNUSED void
gate_init(struct gate *gate)
{
	pthread_mutex_init(&gate->lock, NULL);
	svc_cond_init(&gate->changed);
	gate->count = 0;
}

static UNUSED void
gate_add(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	gate->count++;
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->lock);
}

static UNUSED int
gate_count(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	int count = gate->count;
	pthread_mutex_unlock(&gate->lock);
	return count;
}

static UNUSED void
gate_wait(struct gate *gate, int count)
{
	int64_t deadline = svc_deadline(PATIENCE_MS);
	svc_err code = SVC_OK;
	pthread_mutex_lock(&gate->lock);
	while (gate->count < count && code == SVC_OK)
		code = svc_cond_wait(&gate->changed, &gate->lock, deadline);
	pthread_mutex_unlock(&gate->lock);
	assert_int_equal(code, SVC_OK);
}

/* A service of the test's registry on the group's transport, with more options
 * from `more`, which win. */
static UNUSED struct svc_service *
make(const char *name, const struct svc_option *more)
{
	struct svc_option list[16] = {
	    SVC_OPT_name(name),
	    {SVC_OPTION_REGISTRY, "memory", registry_name, 0, 0, 0, 0},
	    {SVC_OPTION_TRANSPORT, transport_name, 0, 0, 0, 0, 0},
	    SVC_OPT_broker(memory),
	    SVC_OPT_log_level("error"),
	};
	size_t n = 5;
	if (strcmp(transport_name, "memory") != 0)
		list[n++] = (struct svc_option)SVC_OPT_address("127.0.0.1:0");
	for (; more != NULL && more->kind != SVC_OPTION_END; more++)
		list[n++] = *more;
	list[n] = (struct svc_option)SVC_OPT_end();
	struct svc_service *service = svc_new_options(list);
	assert_non_null(service);
	return service;
}
#define MORE(...) SVC_OPTIONS_(SVC_OPT, __VA_ARGS__)

static UNUSED void
must_start(struct svc_service *service)
{
	svc_err code = svc_start(service);
	if (code != SVC_OK)
		print_error("%s\n", svc_error_text(service));
	assert_int_equal(code, SVC_OK);
}

/* Puts a node into the registry that the test's services see. */
static UNUSED void
announce(struct svc_service *service, const char *name, const char *id,
    const char *address, bool idempotent)
{
	struct svc_headers *node_metadata = svc_headers_create();
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(node_metadata, "transport", transport_name);
	if (idempotent)
		svc_headers_set(metadata, "idempotent", "true");
	struct svc_node node = {
	    .id = id, .address = address, .metadata = node_metadata};
	struct svc_endpoint endpoint = {
	    .name = "Student.Name", .metadata = metadata};
	struct svc_record record = {.name = name,
	    .version = "latest",
	    .endpoints = &endpoint,
	    .n_endpoints = 1,
	    .nodes = &node,
	    .n_nodes = 1};
	struct svc_error err = {0};
	svc_err code = svc_registry_announce(
	    svc_registry_of(service), &record, 600000, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(code, SVC_OK);
	svc_headers_destroy(node_metadata);
	svc_headers_destroy(metadata);
}

/* An address of this transport at which nothing answers. */
static UNUSED void
dead_address(char out[64])
{
	if (strcmp(transport_name, "memory") == 0) {
		snprintf(out, 64, "memory:nobody");
		return;
	}
	/* Bound but not listening: nobody else can take the port. */
	static int fd = -1;
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(
		    bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	}
	getsockname(fd, (struct sockaddr *)&in, &len);
	snprintf(out, 64, "127.0.0.1:%d", ntohs(in.sin_port));
}

static UNUSED int
set_registry(void **state)
{
	(void)state;
	static int n;
	snprintf(registry_name, sizeof(registry_name), "test-%d", ++n);
	return 0;
}

/* Whether a transport's plugin was built. */
static UNUSED bool
has_transport(const char *name)
{
	struct svc_service *s = svc_new_options((const struct svc_option[]){
	    SVC_OPT_registry(memory),
	    SVC_OPT_broker(memory),
	    {SVC_OPTION_TRANSPORT, name, 0, 0, 0, 0, 0},
	    SVC_OPT_end(),
	});
	bool has = svc_init(s, 0, NULL) == SVC_OK;
	svc_free(s);
	if (!has)
		print_message("[    LACKS ] transport %s\n", name);
	return has;
}

/* Whether the group's transport has flow control and trailers, which came
 * together. */
static UNUSED bool
has_credit(void)
{
	const void *ops;
	if (svc_catalogue_find(
		&svc_transport_interface, transport_name, &ops, NULL) != SVC_OK)
		return false;
	const struct svc_transport_ops *t = ops;
	return SVC_OPS_HAS(t, credit);
}

/* Runs the group over each transport there is. */
#define EACH_TRANSPORT(failed, tests)                                    \
	do {                                                             \
		const char *const names_[] = {"memory", "tcp", "nng"};   \
		for (int i_ = 0; i_ < 3; i_++) {                         \
			transport_name = names_[i_];                     \
			if (has_transport(transport_name))               \
				(failed) += cmocka_run_group_tests_name( \
				    transport_name, tests, NULL, NULL);  \
		}                                                        \
	} while (0)

#define TEST(f) cmocka_unit_test_setup(f, set_registry)

#endif
