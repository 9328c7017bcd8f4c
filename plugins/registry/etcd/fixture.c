/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

/* ------------------------------------------------- etcdctl, a second client */

char *
ctl(const char *address, const char *a, const char *b, const char *c)
{
	char endpoints[64];
	int status = -1;
	snprintf(endpoints, sizeof(endpoints), "--endpoints=%s", address);
	const char *argv[] = {"etcdctl", endpoints, a, b, c, NULL};
	char *out = test_run(argv, &status);
	if (out == NULL || status != 0)
		fail_msg("etcdctl %s %s: status %d", a, b, status);
	return out;
}

void
ctl_do(const char *a, const char *b, const char *c)
{
	free(ctl(server->address, a, b, c));
}

long long
ctl_number(const char *json, const char *name)
{
	char pattern[64];
	snprintf(pattern, sizeof(pattern), "\"%s\":", name);
	const char *at = strstr(json, pattern);
	assert_non_null(at);
	return strtoll(at + strlen(pattern), NULL, 10);
}

/* --------------------------------------------------------------- fixture */

int
begin_etcd(void **state)
{
	fixture_of("etcd", "1", false);
	begin(state);
	struct fixture *f = *state;
	snprintf(f->key, sizeof(f->key), "/micro/registry/%s/a", f->name);
	return 0;
}

long long
lease_of(const struct fixture *f)
{
	char *out = ctl(server->address, "get", f->key, "--write-out=json");
	long long lease =
	    strstr(out, "\"lease\":") != NULL ? ctl_number(out, "lease") : 0;
	free(out);
	return lease;
}
