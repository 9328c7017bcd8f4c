/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 10,000 nodes of 500 services in one real server: how long a new client takes
 * to see them all, where that time goes and what it needs for them, when a
 * hundred watchers see a change, and what a service costs etcd while nothing
 * happens. Ends with 0 if the targets were met. docs/reliability.md has the
 * figures.
 *
 * usage: bench_scale [etcd|consul|redis [ADDRESS]]
 *
 * With an address, which needs no nodes of before, no server is started.
 *
 * `lock` guards the samples of the watchers and which change is under way.
 */
#include <support/servers.h>
#include <svc/buf.h>
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
	CONSUL_BATCH = 50, /* it allows 64 in a transaction */
	ANNOUNCEMENTS = 50,
	ANNOUNCEMENTS_PER_MINUTE = 6, /* the default interval is 10 s */
	RENEWALS = 2, /* of a lease that is announced once: a third and two */
	SHORT_TTL_MS = 6000,
	RENEWALS_PER_MINUTE = 6, /* each third of the default TTL of 30 s */
	PATIENCE_MS = 60000,
	VIEW_TARGET_MS = 2000,
	CHANGE_TARGET_MS = 200,
	MEMORY_TARGET_KIB = 1024,
};

static const char *plugin = "etcd", *address;
static bool is_consul; /* where time has no target, for most is its own */

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "bench_scale: %s: %s\n", what, why);
	exit(1);
}

/* Instances with the same config may share what they have, those of different
 * `processes` never do. */
static struct svc_registry *
registry_new(int process)
{
	struct svc_registry_config config = {
	    .address = address, .timeout_ms = 20000 + process};
	struct svc_registry *registry = NULL;
	struct svc_error err = {0};
	if (svc_registry_create(plugin, &config, &registry, &err) != SVC_OK)
		die("registry", err.text);
	return registry;
}

/* A record as a service of three endpoints has it, given to `use`. */
static svc_err
with_record(const char *service, const char *id, const char *round,
    svc_err (*use)(const struct svc_record *record, void *arg), void *arg)
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
	svc_headers_set(metadata, "registry", plugin);
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
	svc_err code = use(&record, arg);
	svc_headers_destroy(metadata);
	return code;
}

struct announcement {
	struct svc_registry *registry;
	int64_t ttl_ms;
	struct svc_error *err;
};

static svc_err
announce_it(const struct svc_record *record, void *arg)
{
	struct announcement *to = arg;
	return svc_registry_announce(to->registry, record, to->ttl_ms, to->err);
}

static svc_err
announce(struct svc_registry *registry, const char *service, const char *id,
    const char *round, struct svc_error *err)
{
	struct announcement to = {registry, TTL_MS, err};
	return with_record(service, id, round, announce_it, &to);
}

static svc_err
encode_it(const struct svc_record *record, void *arg)
{
	char **json = arg;
	*json = svc_record_encode(record);
	return *json != NULL ? SVC_OK : SVC_E_NOMEM;
}

/* To be freed with svc_mem_free. */
static char *
some_record_json(void)
{
	char *json = NULL;
	if (with_record("service-000",
		"service-000-00000000-0000-0000-0000-000000000000", "0",
		encode_it, &json) != SVC_OK)
		die("encoding", "no memory");
	return json;
}

/* -------------------------------------------------------------------- fill */

static atomic_int next_node;
static atomic_llong making_us, announcing_us, destroying_us;

static void
spent(atomic_llong *sum_us, int64_t *since_us)
{
	int64_t now_us = svc_now_us();
	atomic_fetch_add(sum_us, now_us - *since_us);
	*since_us = now_us;
}

/* Each node by a registry of its own, as if it were a process of its own. */
static void *
fill(void *arg)
{
	(void)arg;
	int i;
	while ((i = atomic_fetch_add(&next_node, 1)) < NODES) {
		char service[32], id[80], uuid[37];
		struct svc_error err = {0};
		svc_uuid(uuid);
		snprintf(
		    service, sizeof(service), "service-%03d", i % SERVICES);
		snprintf(id, sizeof(id), "%s-%s", service, uuid);
		int64_t at_us = svc_now_us();
		struct svc_registry *registry = registry_new(i);
		spent(&making_us, &at_us);
		if (announce(registry, service, id, "0", &err) != SVC_OK)
			die("announcing", err.text);
		spent(&announcing_us, &at_us);
		svc_registry_destroy(registry);
		spent(&destroying_us, &at_us);
	}
	return NULL;
}

static void
fill_by_announcing(void)
{
	pthread_t threads[FILLERS];
	for (int i = 0; i < FILLERS; i++)
		if (svc_thread_start(&threads[i], "fill", fill, NULL) != SVC_OK)
			die("filling", "no thread");
	for (int i = 0; i < FILLERS; i++)
		svc_thread_join(threads[i]);
}

/* The tags of a node as the plugin writes them, to be freed with free. */
static char *
consul_tags(void)
{
	char url[96];
	struct svc_error err = {0};
	struct svc_registry *registry = registry_new(0);
	snprintf(url, sizeof(url), "http://%s/v1/agent/service/%s", address,
	    "service-000-first");
	const char *const argv[] = {"curl", "-sSf", url, NULL};
	if (announce(registry, "service-000", "service-000-first", "0", &err) !=
	    SVC_OK)
		die("announcing", err.text);
	char *text = test_run(argv, NULL);
	char *tags = text != NULL ? strstr(text, "\"Tags\":") : NULL;
	char *end = tags != NULL ? strchr(tags, ']') : NULL;
	if (end == NULL)
		die("consul", "it does not show the tags of a service");
	end[1] = '\0';
	tags = strdup(tags);
	free(text);
	svc_registry_destroy(registry);
	return tags;
}

static void
consul_transaction(const struct svc_buf *body)
{
	char url[64], path[] = "/tmp/bench-scale-XXXXXX", data[40];
	int status = -1;
	int fd = mkstemp(path);
	if (fd < 0 || write(fd, body->data, body->len) != (ssize_t)body->len)
		die("consul", "a transaction cannot be written");
	close(fd);
	snprintf(url, sizeof(url), "http://%s/v1/txn", address);
	snprintf(data, sizeof(data), "@%s", path);
	const char *const argv[] = {"curl", "-sSf", "-o", "/dev/null", "-X",
	    "PUT", "--data-binary", data, url, NULL};
	free(test_run(argv, &status));
	unlink(path);
	if (status != 0)
		die("consul", "a transaction failed");
}

/*
 * One agent does not bear 10,000 services, since it goes through all of them
 * when one comes, and nobody has so many on one host. So they are put where the
 * agents of other hosts would have put them.
 */
static void
fill_consul(void)
{
	char *tags = consul_tags();
	struct svc_buf body;
	svc_buf_init(&body, 16 << 20);
	for (int i = 0; i < NODES; i++) {
		char uuid[37];
		int host = i / SERVICES;
		svc_uuid(uuid);
		svc_buf_putc(&body, body.len == 0 ? '[' : ',');
		if (i % SERVICES == 0)
			svc_buf_printf(&body,
			    "{\"Node\":{\"Verb\":\"set\",\"Node\":{\"Node\":"
			    "\"host-%02d\",\"Address\":\"10.1.2.%d\"}}},",
			    host, host);
		svc_buf_printf(&body,
		    "{\"Service\":{\"Verb\":\"set\",\"Node\":\"host-%02d\","
		    "\"Service\":{\"ID\":\"service-%03d-%s\",\"Service\":"
		    "\"service-%03d\",\"Address\":\"10.1.2.3\",\"Port\":45678,"
		    "%s}}}",
		    host, i % SERVICES, uuid, i % SERVICES, tags);
		if (i % CONSUL_BATCH != CONSUL_BATCH - 1 && i != NODES - 1)
			continue;
		svc_buf_putc(&body, ']');
		if (body.failed != SVC_OK)
			die("consul", "no memory");
		consul_transaction(&body);
		svc_buf_clear(&body);
	}
	svc_buf_fini(&body);
	free(tags);
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

/* What one new client says of itself, in this order. */
enum { VIEW_MS, VIEW_CPU_MS, VIEW_DECODE_MS, VIEW_KIB, VIEW_HEAP_KIB, N_VIEW };

static void
await_view(struct svc_registry *registry, const char *service, size_t nodes,
    struct svc_watch **ret_watch)
{
	struct svc_error err = {0};
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	seen = 0;
	synced = false;
	if (svc_registry_watch(
		registry, service, on_node, NULL, ret_watch, &err) != SVC_OK)
		die("watching", err.text);
	pthread_mutex_lock(&lock);
	while (!synced)
		if (svc_cond_wait(&changed, &lock, until_ms) != SVC_OK)
			die("watching", "no full view in time");
	if (seen < nodes)
		die("watching", "the view is not full");
	pthread_mutex_unlock(&lock);
}

/* Processor time for reading the JSON of as many records. */
static long
decode_ms(void)
{
	char *json = some_record_json();
	long before_ms = cpu_ms();
	for (int i = 0; i < NODES; i++) {
		struct svc_record *record = NULL;
		if (svc_record_decode(json, strlen(json), &record, NULL) !=
		    SVC_OK)
			die("decoding", "a record is none");
		svc_record_destroy(record);
	}
	svc_mem_free(json);
	return cpu_ms() - before_ms;
}

/* In a process of its own. What every client of this registry has, with its
 * libraries, is there before anything is measured. */
static int
view(void)
{
	struct svc_watch *watch = NULL;
	struct svc_registry *registry = registry_new(0);
	svc_cond_init(&changed);
	await_view(registry, "service-none", 0, &watch);
	svc_registry_unwatch(watch);
	malloc_trim(0);
	long before_kib = resident_kib(), before_cpu_ms = cpu_ms();
	size_t before_heap = mallinfo2().uordblks + mallinfo2().hblkhd;
	int64_t began_us = svc_now_us();
	await_view(registry, NULL, NODES, &watch);
	long long took_ms = (svc_now_us() - began_us) / 1000;
	long took_cpu_ms = cpu_ms() - before_cpu_ms;
	malloc_trim(0);
	size_t heap = mallinfo2().uordblks + mallinfo2().hblkhd;
	long kib = resident_kib() - before_kib;
	printf("%lld %ld %ld %ld %ld\n", took_ms, took_cpu_ms, decode_ms(), kib,
	    (long)(heap - before_heap) / 1024);
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

/* The medians of some new processes. */
static void
measure_views(double ret_view[N_VIEW])
{
	char self[4096], command[4200];
	int64_t values[N_VIEW][VIEWS];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[len > 0 ? len : 0] = '\0';
	snprintf(
	    command, sizeof(command), "'%s' view %s %s", self, plugin, address);
	for (int i = 0; i < VIEWS; i++) {
		FILE *out = popen(command, "r");
		for (int k = 0; k < N_VIEW; k++) {
			long long value = 0;
			if (out == NULL || fscanf(out, "%lld", &value) != 1)
				die("a new client", "has no view");
			values[k][i] = value;
		}
		pclose(out);
	}
	for (int k = 0; k < N_VIEW; k++)
		ret_view[k] = percentile(values[k], VIEWS, 50);
}

/* What the server and the way need for the same answer; 0 when there is no way
 * to ask with curl. */
static double
fetch_ms(void)
{
	char url[64];
	int64_t ms[VIEWS];
	bool etcd = strcmp(plugin, "etcd") == 0;
	if (!etcd && !is_consul)
		return 0;
	snprintf(url, sizeof(url), "http://%s%s", address,
	    etcd ? "/v3/kv/range"
		 : "/v1/health/service/service-[000-499]?passing=1");
	const char *const all[] = {"curl", "-sS", "-o", "/dev/null", url, "-d",
	    "{\"key\":\"AA==\",\"range_end\":\"AA==\"}", NULL};
	const char *const each[] = {
	    "curl", "-sS", "-o", "/dev/null", url, NULL};
	for (int i = 0; i < VIEWS; i++) {
		int64_t began_us = svc_now_us();
		free(test_run(etcd ? all : each, NULL));
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

/* Of one registry, or each of a registry of its own, as if in a process of
 * its own. */
static void
measure_changes(bool one_registry)
{
	static struct svc_registry *registries[WATCHERS];
	static struct svc_watch *watches[WATCHERS];
	static const char id[] = "service-000-changing";
	struct svc_registry *registry = registry_new(0);
	struct svc_error err = {0};
	char round[16];
	seen = 0;
	changes.n = 0;
	if (announce(registry, "service-000", id, "0", &err) != SVC_OK)
		die("announcing", err.text);
	for (int i = 0; i < WATCHERS; i++) {
		registries[i] =
		    one_registry && i > 0 ? registries[0] : registry_new(1 + i);
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
		if (!one_registry || i == WATCHERS - 1)
			svc_registry_destroy(registries[i]);
	}
	svc_registry_destroy(registry);
}

/* ------------------------------------------------------------- steady load */

/* The sum of all samples of a counter that etcd publishes. */
static double
counter(const char *name)
{
	char url[64];
	double sum = 0;
	snprintf(url, sizeof(url), "http://%s/metrics", address);
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
load_now(void)
{
	return (struct load){
	    .requests = counter("grpc_server_started_total"),
	    .bytes = counter("etcd_network_client_grpc_received_bytes") +
		     counter("etcd_network_client_grpc_sent_bytes"),
	    .writes = counter("etcd_server_proposals_committed_total"),
	};
}

static struct load
load_since(const struct load *before, double n)
{
	struct load now = load_now();
	return (struct load){
	    .requests = (now.requests - before->requests) / n,
	    .bytes = (now.bytes - before->bytes) / n,
	    .writes = (now.writes - before->writes) / n,
	};
}

/* For one announcement of what is there already. */
static struct load
measure_announcement(void)
{
	struct svc_registry *registry = registry_new(0);
	struct svc_error err = {0};
	svc_err code =
	    announce(registry, "service-000", "service-000-steady", "0", &err);
	struct load before = load_now();
	for (int i = 0; code == SVC_OK && i < ANNOUNCEMENTS; i++)
		code = announce(
		    registry, "service-000", "service-000-steady", "0", &err);
	if (code != SVC_OK)
		die("announcing", err.text);
	struct load load = load_since(&before, ANNOUNCEMENTS);
	svc_registry_destroy(registry);
	return load;
}

/* For one renewal of the lease of a process that announced once. */
static struct load
measure_renewal(void)
{
	static const char renewed[] =
	    "grpc_server_started_total{grpc_method=\"LeaseKeepAlive\"";
	struct svc_registry *registry = registry_new(0);
	struct svc_error err = {0};
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	struct announcement to = {registry, SHORT_TTL_MS, &err};
	if (with_record("service-000", "service-000-short", "0", announce_it,
		&to) != SVC_OK)
		die("announcing", err.text);
	struct load before = load_now();
	double first = counter(renewed), n;
	while ((n = counter(renewed) - first) < RENEWALS)
		if (svc_remaining(until_ms) == 0)
			die("a lease", "it is not renewed");
	struct load load = load_since(&before, n);
	svc_registry_destroy(registry);
	return load;
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

static void
say_load(void)
{
	struct load one = measure_announcement();
	say("steady, one service: requests to etcd each minute",
	    one.requests * ANNOUNCEMENTS_PER_MINUTE, "", 0);
	say("  bytes", one.bytes * ANNOUNCEMENTS_PER_MINUTE, "B", 0);
	say("  writes to etcd's log", one.writes * ANNOUNCEMENTS_PER_MINUTE, "",
	    0);
	one = measure_renewal();
	say("steady, one process: renewals of its lease each minute",
	    one.requests * RENEWALS_PER_MINUTE, "", 0);
	say("  bytes", one.bytes * RENEWALS_PER_MINUTE, "B", 0);
	say("  writes to etcd's log", one.writes * RENEWALS_PER_MINUTE, "", 0);
}

static void
say_fill(void)
{
	int64_t began_ms = svc_now_ms();
	if (is_consul)
		fill_consul();
	else
		fill_by_announcing();
	say(is_consul
		? "putting 10,000 nodes of 500 services into the catalogue"
		: "announcing 10,000 nodes of 500 services",
	    (double)(svc_now_ms() - began_ms) / 1000, "s", 0);
	if (is_consul)
		return;
	say("  making one of their registries, on average",
	    (double)making_us / NODES / 1000, "ms", 0);
	say("  announcing by it, eight at a time",
	    (double)announcing_us / NODES / 1000, "ms", 0);
	say("  destroying it", (double)destroying_us / NODES / 1000, "ms", 0);
}

static bool
say_views(void)
{
	double one[N_VIEW];
	measure_views(one);
	bool met = say("first full view of a new client, median of 5",
	    one[VIEW_MS], "ms", is_consul ? 0 : VIEW_TARGET_MS);
	say("  processor time of that client", one[VIEW_CPU_MS], "ms", 0);
	say("  of which decoding the records' JSON", one[VIEW_DECODE_MS], "ms",
	    0);
	double ms = fetch_ms();
	if (ms > 0)
		say("  curl fetches the same, and throws it away", ms, "ms", 0);
	met &= say("memory of that client for each 1,000 nodes",
	    one[VIEW_KIB] * 1000 / NODES, "KiB", MEMORY_TARGET_KIB);
	say("  of which what it holds, without what is unused between it",
	    one[VIEW_HEAP_KIB] * 1000 / NODES, "KiB", 0);
	return met;
}

static bool
say_changes(bool one_registry, const char *median, const char *p99)
{
	measure_changes(one_registry);
	say(median, percentile(changes.us, changes.n, 50) / 1000, "ms", 0);
	return say(p99, percentile(changes.us, changes.n, 99) / 1000, "ms",
	    is_consul ? 0 : CHANGE_TARGET_MS);
}

static struct test_server *
start_server(void)
{
	if (strcmp(plugin, "etcd") == 0)
		return start_etcd(NULL);
	if (strcmp(plugin, "consul") == 0)
		return start_consul(NULL);
	if (strcmp(plugin, "redis") == 0)
		return start_redis(NULL);
	fprintf(stderr,
	    "bench_scale: registry %s: allowed are etcd, consul and redis\n",
	    plugin);
	exit(2);
}

int
main(int argc, char *argv[])
{
	struct test_server *server = NULL;
	if (argc == 4 && strcmp(argv[1], "view") == 0) {
		plugin = argv[2];
		address = argv[3];
		return view();
	}
	if (argc > 3) {
		fprintf(stderr, "usage: %s [etcd|consul|redis [ADDRESS]]\n",
		    argv[0]);
		return 2;
	}
	if (argc > 1)
		plugin = argv[1];
	is_consul = strcmp(plugin, "consul") == 0;
	if (argc > 2) {
		address = argv[2];
	} else {
		server = start_server();
		if (server == NULL)
			return 1;
		address = server->address;
	}
	svc_cond_init(&changed);
	say_fill();
	bool met = say_views();
	met &= say_changes(false,
	    "a change seen by 100 clients of their own, median",
	    "a change seen by 100 clients of their own, p99");
	met &= say_changes(true, "a change seen by 100 watches of one, median",
	    "a change seen by 100 watches of one, p99");
	if (strcmp(plugin, "etcd") == 0)
		say_load();
	test_server_stop(server);
	return met ? 0 : 1;
}
