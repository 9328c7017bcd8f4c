/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REDIS_TEST_H
#define REDIS_TEST_H

/* What the tests against a real redis share. */

#include <support/registry_fixture.h>

/* A second client. */
static inline char *
cli_at(const struct test_server *at, const char *const words[])
{
	char port[16];
	int status = -1;
	snprintf(port, sizeof(port), "%d", at->port);
	const char *argv[48] = {"redis-cli", "-p", port, "--no-auth-warning"};
	size_t n = 4;
	for (; *words != NULL && n < 47; words++)
		argv[n++] = *words;
	argv[n] = NULL;
	char *out = test_run(argv, &status);
	if (out == NULL || status != 0)
		fail_msg("redis-cli %s: status %d", argv[4], status);
	return out;
}

static inline long long
number_of(char *out)
{
	long long number = strtoll(out, NULL, 10);
	free(out);
	return number;
}

/* As begin, with the keys of a and of its service. */
static inline int
begin_redis(void **state)
{
	fixture_of("redis", "1", false);
	begin(state);
	struct fixture *f = *state;
	snprintf(f->key, sizeof(f->key), "{svc}:node:%s/a", f->name);
	snprintf(f->set, sizeof(f->set), "{svc}:nodes:%s", f->name);
	return 0;
}

#endif
