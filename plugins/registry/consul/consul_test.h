/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CONSUL_TEST_H
#define CONSUL_TEST_H

/* What the tests against a real consul share. */

#include <support/registry_fixture.h>

/* ---------------------------------------------------- curl, a second client */

/* What an agent answers, to be freed. */
static inline char *
ask(const char *address, const char *method, const char *path, const char *body)
{
	char url[512];
	int status = -1;
	snprintf(url, sizeof(url), "http://%s%s", address, path);
	const char *argv[] = {"curl", "-fsS", "-m", "10", "-X", method, url,
	    body != NULL ? "-d" : NULL, body, NULL};
	char *out = test_run(argv, &status);
	if (out == NULL || status != 0)
		fail_msg("%s %s: curl ended with %d", method, path, status);
	return out;
}

#endif
