/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

struct test_server *server;

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

static struct svc_registry *
make_with(const char *address, int64_t timeout_ms)
{
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {
	    .address = address,
	    .timeout_ms = timeout_ms,
	    .grace_ms = 3000,
	};
	OK(svc_registry_create("etcd", &config, &registry, err));
	return registry;
}

struct svc_registry *
make(const char *address)
{
	return make_with(address, 4000);
}

struct svc_registry *
make_stranger(const char *address)
{
	static int64_t timeout_ms = 4000;
	return make_with(address, ++timeout_ms);
}

int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	char uuid[37];
	assert_non_null(f);
	if (server->pid == 0)
		assert_true(test_server_start_again(server, false));
	svc_uuid(uuid);
	snprintf(f->name, sizeof(f->name), "t%.8s", uuid);
	sample_init(&f->a, f->name, "1", "a", 1);
	sample_init(&f->b, f->name, "1", "b", 2);
	snprintf(f->key, sizeof(f->key), "/micro/registry/%s/a", f->name);
	f->registry = make(server->address);
	f->recorder = recorder_create();
	*state = f;
	return 0;
}

int
end(void **state)
{
	struct fixture *f = *state;
	/* A test that failed half way may have left it frozen. */
	test_server_thaw(server);
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->registry);
	recorder_destroy(f->recorder);
	sample_fini(&f->a);
	sample_fini(&f->b);
	svc_mem_free(f);
	return 0;
}

void
announce(struct fixture *f, const struct sample *sample)
{
	OK(svc_registry_announce(f->registry, &sample->record, TTL_MS, err));
}

void
watch(struct fixture *f)
{
	OK(svc_registry_watch(f->registry, f->name, recorder_change,
	    f->recorder, &f->watch, err));
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

void
expect(struct fixture *f, svc_change change, const struct sample *sample)
{
	if (!recorder_wait(
		f->recorder, change, f->name, sample->id, WAIT_MS, NULL))
		fail_msg("change %d of node %s did not come", (int)change,
		    sample->id);
}

svc_err
lookup(struct svc_registry *registry, const char *name)
{
	struct svc_record_list list = {0};
	svc_err rc = svc_registry_lookup(registry, name, &list, NULL);
	svc_record_list_fini(&list);
	return rc;
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
