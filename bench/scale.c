/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 10,000 nodes of 500 services in one real etcd: how long a new client takes to
 * see them all and what it needs for them, when a hundred watchers see a
 * change, and what a service costs etcd while nothing happens. Ends with 0 if
 * the targets were met. docs/reliability.md has the figures.
 *
 * `lock` guards the samples of the watchers and which change is under way.
 */
#include <support/servers.h>
#include <svc/svc.h>

#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	SERVICES = 500,
	NODES_EACH = 20,
	NODES = SERVICES * NODES_EACH,
	FILLERS = 8,
	TTL_MS = 1200 * 1000, /* longer than all of this takes */
	VIEWS = 5,
	WATCHERS = 100,
	CHANGES = 50,
	RENEWALS = 50,
	RENEWALS_PER_MINUTE = 6, /* the default interval is 10 s */
	PATIENCE_MS = 60000,
	VIEW_TARGET_MS = 2000,
	CHANGE_TARGET_MS = 200,
	MEMORY_TARGET_KIB = 1024,
};

static const char *etcd_address;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "bench_scale: %s: %s\n", what, why);
	exit(1);
}

static struct svc_registry *
registry_new(void)
{
	struct svc_registry_config config = {
	    .address = etcd_address, .timeout_ms = 20000};
	struct svc_registry *registry = NULL;
	struct svc_error err = {0};
	if (svc_registry_create("etcd", &config, &registry, &err) != SVC_OK)
		die("registry", err.text);
	return registry;
}

/* A record as a service of three endpoints has it. */
static svc_err
announce(struct svc_registry *registry, const char *service, const char *id,
    const char *round, struct svc_error *err)
{
	static const struct svc_value fields[] = {
	    {.name = "name", .type = "string"},
	    {.name = "count", .type = "int64"},
	};
	static const struct svc_value request = {.name = "Request",
	    .type = "Request",
	    .values = fields,
	    .n_values = 2};
	static const struct svc_value response = {.name = "Response",
	    .type = "Response",
	    .values = fields,
	    .n_values = 2};
	struct svc_headers *metadata = svc_headers_create();
	if (metadata == NULL)
		return SVC_E_NOMEM;
	svc_headers_set(metadata, "transport", "tcp");
	svc_headers_set(metadata, "protocol", "mucp");
	svc_headers_set(metadata, "registry", "etcd");
	svc_headers_set(metadata, "zone", "east");
	svc_headers_set(metadata, "round", round);
	struct svc_endpoint endpoints[] = {
	    {.name = "Thing.Get", .request = &request, .response = &response},
	    {.name = "Thing.Put", .request = &request, .response = &response},
	    {.name = "Thing.List", .request = &request, .response = &response},
	};
	struct svc_node node = {
	    .id = id, .address = "10.1.2.3:45678", .metadata = metadata};
	struct svc_record record = {.name = service,
	    .version = "1.0.0",
	    .endpoints = endpoints,
	    .n_endpoints = 3,
	    .nodes = &node,
	    .n_nodes = 1};
	svc_err code = svc_registry_announce(registry, &record, TTL_MS, err);
	svc_headers_destroy(metadata);
	return code;
}

/* -------------------------------------------------------------------- fill */

static atomic_int next_node;

/* Each node by a registry of its own, as if it were a process of its own. */
static void *
fill(void *arg)
{
	(void)arg;
	int i;
	while ((i = atomic_fetch_add(&next_node, 1)) < NODES) {
		char service[32], id[80], uuid[37];
		struct svc_error err = {0};
		struct svc_registry *registry = registry_new();
		svc_uuid(uuid);
		snprintf(
		    service, sizeof(service), "service-%03d", i % SERVICES);
		snprintf(id, sizeof(id), "%s-%s", service, uuid);
		if (announce(registry, service, id, "0", &err) != SVC_OK)
			die("announcing", err.text);
		svc_registry_destroy(registry);
	}
	return NULL;
}

static void
fill_etcd(void)
{
	pthread_t threads[FILLERS];
	for (int i = 0; i < FILLERS; i++)
		if (svc_thread_start(&threads[i], "fill", fill, NULL) != SVC_OK)
			die("filling", "no thread");
	for (int i = 0; i < FILLERS; i++)
		svc_thread_join(threads[i]);
}

/* -------------------------------------------------------------- first view */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static size_t seen;
static bool synced;

static void
on_node(svc_change change, const struct svc_record *record, void *arg)
{
	(void)arg;
	(void)record;
	pthread_mutex_lock(&lock);
	if (change == SVC_CREATED)
		seen++;
	if (change == SVC_SYNCED)
		synced = true;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

static long
resident_kib(void)
{
	long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	if (f == NULL || fscanf(f, "%ld %ld", &size, &resident) != 2)
		die("/proc/self/statm", "cannot be read");
	fclose(f);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static long
cpu_ms(void)
{
	struct rusage used;
	getrusage(RUSAGE_SELF, &used);
	return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
	       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

/* In a process of its own: says "MS CPU-MS KIB". */
static int
view(void)
{
	struct svc_watch *watch = NULL;
	struct svc_error err = {0};
	long before_kib = resident_kib();
	int64_t began_us = svc_now_us();
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	struct svc_registry *registry = registry_new();
	svc_cond_init(&changed);
	if (svc_registry_watch(registry, NULL, on_node, NULL, &watch, &err) !=
	    SVC_OK)
		die("watching", err.text);
	pthread_mutex_lock(&lock);
	while (!synced)
		if (svc_cond_wait(&changed, &lock, until_ms) != SVC_OK)
			die("watching", "no full view in time");
	int64_t took_us = svc_now_us() - began_us;
	if (seen < NODES)
		die("watching", "the view is not full");
	pthread_mutex_unlock(&lock);
	malloc_trim(0);
	printf("%lld %ld %ld\n", (long long)took_us / 1000, cpu_ms(),
	    resident_kib() - before_kib);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	return 0;
}

static int
compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

/* The value that so many percent of all are not above; sorts them. */
static double
percentile(int64_t *values, size_t n, size_t percent)
{
	size_t at = n * percent / 100;
	qsort(values, n, sizeof(values[0]), compare);
	return (double)values[at < n ? at : n - 1];
}

/* Each by a new process. */
static void
measure_views(int64_t ms[VIEWS], int64_t cpu[VIEWS], int64_t kib[VIEWS])
{
	char self[4096], command[4200];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[len > 0 ? len : 0] = '\0';
	snprintf(command, sizeof(command), "'%s' view %s", self, etcd_address);
	for (int i = 0; i < VIEWS; i++) {
		long long one_ms = 0;
		long one_cpu = 0, one_kib = 0;
		FILE *out = popen(command, "r");
		if (out == NULL || fscanf(out, "%lld %ld %ld", &one_ms,
				       &one_cpu, &one_kib) != 3)
			die("a new client", "has no view");
		pclose(out);
		ms[i] = one_ms;
		cpu[i] = one_cpu;
		kib[i] = one_kib;
	}
}

/* What the server and the way need for the same answer. */
static double
fetch_ms(const struct test_server *etcd)
{
	char url[64];
	int64_t ms[VIEWS];
	snprintf(url, sizeof(url), "http://%s/v3/kv/range", etcd->address);
	const char *const argv[] = {"curl", "-sS", "-o", "/dev/null", url, "-d",
	    "{\"key\":\"AA==\",\"range_end\":\"AA==\"}", NULL};
	for (int i = 0; i < VIEWS; i++) {
		int64_t began_us = svc_now_us();
		free(test_run(argv, NULL));
		ms[i] = (svc_now_us() - began_us) / 1000;
	}
	return percentile(ms, VIEWS, 50);
}

/* ------------------------------------------------------------------ change */

static struct {
	int round;
	int64_t began_us;
	size_t n;
	int64_t us[WATCHERS * CHANGES];
	size_t of_round;
} changes;

static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	(void)arg;
	int64_t now_us = svc_now_us();
	const char *round =
	    record != NULL ? svc_headers_get(record->nodes[0].metadata, "round")
			   : NULL;
	pthread_mutex_lock(&lock);
	if (change == SVC_SYNCED)
		seen++;
	else if (change == SVC_UPDATED && round != NULL &&
		 strtol(round, NULL, 10) == changes.round &&
		 changes.n < WATCHERS * CHANGES) {
		changes.us[changes.n++] = now_us - changes.began_us;
		changes.of_round++;
	}
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

static void
wait_until(const size_t *count, size_t wanted, const char *what)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	pthread_mutex_lock(&lock);
	while (*count < wanted)
		if (svc_cond_wait(&changed, &lock, until_ms) != SVC_OK)
			die(what, "not all watchers have seen it in time");
	pthread_mutex_unlock(&lock);
}

static void
measure_changes(void)
{
	static struct svc_registry *registries[WATCHERS];
	static struct svc_watch *watches[WATCHERS];
	static const char id[] = "service-000-changing";
	struct svc_registry *registry = registry_new();
	struct svc_error err = {0};
	char round[16];
	seen = 0;
	if (announce(registry, "service-000", id, "0", &err) != SVC_OK)
		die("announcing", err.text);
	for (int i = 0; i < WATCHERS; i++) {
		registries[i] = registry_new();
		if (svc_registry_watch(registries[i], "service-000", on_change,
			NULL, &watches[i], &err) != SVC_OK)
			die("watching", err.text);
	}
	wait_until(&seen, WATCHERS, "a view");
	for (int i = 1; i <= CHANGES; i++) {
		snprintf(round, sizeof(round), "%d", i);
		pthread_mutex_lock(&lock);
		changes.round = i;
		changes.of_round = 0;
		changes.began_us = svc_now_us();
		pthread_mutex_unlock(&lock);
		if (announce(registry, "service-000", id, round, &err) !=
		    SVC_OK)
			die("announcing", err.text);
		wait_until(&changes.of_round, WATCHERS, "a change");
	}
	for (int i = 0; i < WATCHERS; i++) {
		svc_registry_unwatch(watches[i]);
		svc_registry_destroy(registries[i]);
	}
	svc_registry_destroy(registry);
}

/* ------------------------------------------------------------- steady load */

/* The sum of all samples of a counter that etcd publishes. */
static double
counter(const struct test_server *etcd, const char *name)
{
	char url[64];
	double sum = 0;
	snprintf(url, sizeof(url), "http://%s/metrics", etcd->address);
	const char *const argv[] = {"curl", "-sS", "-m", "10", url, NULL};
	char *text = test_run(argv, NULL);
	if (text == NULL)
		die("metrics", "etcd gives none");
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		const char *value = strrchr(line, ' ');
		if (strncmp(line, name, strlen(name)) == 0 && value != NULL)
			sum += strtod(value, NULL);
	}
	free(text);
	return sum;
}

struct load {
	double requests, bytes, writes;
};

static struct load
load_now(const struct test_server *etcd)
{
	return (struct load){
	    .requests = counter(etcd, "grpc_server_started_total"),
	    .bytes = counter(etcd, "etcd_network_client_grpc_received_bytes") +
		     counter(etcd, "etcd_network_client_grpc_sent_bytes"),
	    .writes = counter(etcd, "etcd_server_proposals_committed_total"),
	};
}

/* For one renewal. */
static struct load
measure_load(const struct test_server *etcd)
{
	struct svc_registry *registry = registry_new();
	struct svc_error err = {0};
	svc_err code =
	    announce(registry, "service-000", "service-000-steady", "0", &err);
	struct load before = load_now(etcd);
	for (int i = 0; code == SVC_OK && i < RENEWALS; i++)
		code = announce(
		    registry, "service-000", "service-000-steady", "0", &err);
	struct load after = load_now(etcd);
	if (code != SVC_OK)
		die("announcing", err.text);
	svc_registry_destroy(registry);
	return (struct load){
	    .requests = (after.requests - before.requests) / RENEWALS,
	    .bytes = (after.bytes - before.bytes) / RENEWALS,
	    .writes = (after.writes - before.writes) / RENEWALS,
	};
}

/* -------------------------------------------------------------------- main */

static bool
say(const char *what, double value, const char *unit, double target)
{
	bool met = target <= 0 || value < target;
	printf("%-52s %9.1f %-5s", what, value, unit);
	if (target > 0)
		printf(" %s %.0f", met ? "below" : "NOT BELOW", target);
	printf("\n");
	fflush(stdout);
	return met;
}

int
main(int argc, char *argv[])
{
	bool met = true;
	int64_t ms[VIEWS], cpu[VIEWS], kib[VIEWS];
	if (argc == 3 && strcmp(argv[1], "view") == 0) {
		etcd_address = argv[2];
		return view();
	}
	if (argc != 1) {
		fprintf(stderr, "usage: %s\n", argv[0]);
		return 2;
	}
	struct test_server *etcd = start_etcd(NULL);
	if (etcd == NULL)
		return 1;
	etcd_address = etcd->address;
	svc_cond_init(&changed);

	int64_t began_ms = svc_now_ms();
	fill_etcd();
	say("announcing 10,000 nodes of 500 services",
	    (double)(svc_now_ms() - began_ms) / 1000, "s", 0);
	measure_views(ms, cpu, kib);
	met &= say("first full view of a new client, median of 5",
	    percentile(ms, VIEWS, 50), "ms", VIEW_TARGET_MS);
	say("processor time of that client", percentile(cpu, VIEWS, 50), "ms",
	    0);
	say("for comparison: curl fetches the same, and throws it away",
	    fetch_ms(etcd), "ms", 0);
	met &= say("memory of that client for each 1,000 nodes",
	    percentile(kib, VIEWS, 50) * 1000 / NODES, "KiB",
	    MEMORY_TARGET_KIB);

	measure_changes();
	say("a change seen by 100 watchers, median",
	    percentile(changes.us, changes.n, 50) / 1000, "ms", 0);
	met &= say("a change seen by 100 watchers, p99",
	    percentile(changes.us, changes.n, 99) / 1000, "ms",
	    CHANGE_TARGET_MS);

	struct load load = measure_load(etcd);
	say("steady, one service: requests to etcd each minute",
	    load.requests * RENEWALS_PER_MINUTE, "", 0);
	say("steady, one service: bytes each minute",
	    load.bytes * RENEWALS_PER_MINUTE, "B", 0);
	say("steady, one service: writes to etcd's log each minute",
	    load.writes * RENEWALS_PER_MINUTE, "", 0);
	test_server_stop(etcd);
	return met ? 0 : 1;
}
