/* SPDX-License-Identifier: Apache-2.0 */
/* Faults that a real etcd does not give on demand: a watch that is ended
 * because its history was compacted, half a line, rubbish, an error. After
 * each of them the plugin must ask for the full state again. */
#include <conformance/registry.h>
#include <support/fake_http.h>

#include <svc/buf.h>
#include <svc/clock.h>

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_MS = 30000 };

/* What it answers to its first, second, ... watch, with its id in place of #;
 * the last one goes on. */
#define CREATED "{\"result\":{\"watch_id\":\"#\",\"created\":true}}\n"
static const char *const watches[] = {
    (CREATED "{\"result\":{\"watch_id\":\"#\",\"canceled\":true,"
	     "\"compact_revision\":\"10\"}}\n"),
    /* Refused; some versions of etcd do not say which. */
    "{\"result\":{\"watch_id\":\"#\",\"created\":true,\"canceled\":true}}\n",
    "{\"result\":{\"watch_id\":\"-1\",\"created\":true,\"canceled\":true}}\n",
    CREATED "rubbish\n",
    CREATED "{\"result\":{\"watch_id\":\"#\",\"events\":[{\"kv\":",
    "{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}\n",
    /* Behind the revision 5 of the full state. */
    "{\"result\":{\"header\":{\"revision\":\"4\"},\"watch_id\":\"#\","
    "\"created\":true}}\n",
    CREATED,
};
enum { WATCHES = sizeof(watches) / sizeof(watches[0]), HALF_A_LINE = 4 };

struct faulty {
	struct fake_http http;
	bool is_silent; /* a watch gets one event, then nothing */
	bool is_deaf;   /* it does not even take them */
	atomic_int n_watches, n_ranges;
	char create[1024]; /* the request of the last watch */
};

static void
put_base64(struct svc_buf *buf, const char *text)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				     "abcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = strlen(text);
	for (size_t i = 0; i < len; i += 3) {
		unsigned bits = (unsigned)(unsigned char)text[i] << 16;
		if (i + 1 < len)
			bits |= (unsigned)(unsigned char)text[i + 1] << 8;
		if (i + 2 < len)
			bits |= (unsigned char)text[i + 2];
		svc_buf_putc(buf, digits[bits >> 18]);
		svc_buf_putc(buf, digits[bits >> 12 & 63]);
		svc_buf_putc(buf, i + 1 < len ? digits[bits >> 6 & 63] : '=');
		svc_buf_putc(buf, i + 2 < len ? digits[bits & 63] : '=');
	}
}

/* The kv of a node of service "s". */
static void
put_kv_at(struct svc_buf *buf, const char *id, int revision)
{
	char key[64], value[160];
	snprintf(key, sizeof(key), "/micro/registry/s/%s", id);
	snprintf(value, sizeof(value),
	    "{\"name\":\"s\",\"version\":\"1\",\"nodes\":[{\"id\":\"%s\","
	    "\"address\":\"h:1\"}]}",
	    id);
	svc_buf_puts(buf, "{\"key\":\"");
	put_base64(buf, key);
	svc_buf_puts(buf, "\",\"value\":\"");
	put_base64(buf, value);
	svc_buf_printf(buf, "\",\"mod_revision\":\"%d\"}", revision);
}

static void
put_kv(struct svc_buf *buf, const char *id)
{
	put_kv_at(buf, id, 5);
}

/* The nth full state has n nodes, "n1" to "nN". */
static void
answer_range(struct faulty *faulty, int fd)
{
	struct svc_buf body, head;
	char id[16];
	svc_buf_init(&body, 1 << 20);
	svc_buf_init(&head, 1 << 10);
	int n_ranges = atomic_fetch_add(&faulty->n_ranges, 1) + 1;
	svc_buf_printf(&body, "{\"header\":{\"revision\":\"%d\"},\"kvs\":[",
	    faulty->is_silent && n_ranges > 1 ? 30 : 5);
	for (int i = 1; i <= n_ranges; i++) {
		snprintf(id, sizeof(id), "n%d", i);
		svc_buf_puts(&body, i > 1 ? "," : "");
		put_kv(&body, id);
	}
	svc_buf_puts(&body, "]}");
	svc_buf_printf(&head,
	    "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	    "Content-Length: %zu\r\n\r\n",
	    body.len);
	fake_http_send(fd, head.data, head.len);
	fake_http_send(fd, body.data, body.len);
	svc_buf_fini(&head);
	svc_buf_fini(&body);
	close(fd);
}

static void
send_lines(int fd, const char *text, const char *id)
{
	struct svc_buf buf;
	svc_buf_init(&buf, 1 << 12);
	for (; *text != '\0'; text++)
		if (*text == '#')
			svc_buf_puts(&buf, id);
		else
			svc_buf_putc(&buf, *text);
	fake_http_send(fd, buf.data, buf.len);
	svc_buf_fini(&buf);
}

/* The nth watch tells of node "eN" at revision 8 + N. */
static void
answer_with_one_event(struct faulty *faulty, int fd, const char *watch_id)
{
	struct svc_buf text;
	char id[16];
	int n = atomic_load(&faulty->n_watches) + 1;
	snprintf(id, sizeof(id), "e%d", n);
	svc_buf_init(&text, 1 << 12);
	svc_buf_puts(&text, "{\"result\":{\"header\":{\"revision\":\"30\"},"
			    "\"watch_id\":\"#\",\"created\":true}}\n");
	/* The head is ahead of the event, as etcd's is of a watch that has
	 * still to catch up. */
	svc_buf_puts(&text, "{\"result\":{\"header\":{\"revision\":\"30\"},"
			    "\"watch_id\":\"#\",\"events\":[{\"kv\":");
	put_kv_at(&text, id, 8 + n);
	svc_buf_puts(&text, "}]}}\n");
	send_lines(fd, (const char *)text.data, watch_id);
	svc_buf_fini(&text);
	atomic_fetch_add(&faulty->n_watches, 1);
}

static void
answer_watch(struct faulty *faulty, int fd, const char *id)
{
	int number = atomic_fetch_add(&faulty->n_watches, 1);
	send_lines(fd, watches[number < WATCHES ? number : WATCHES - 1], id);
	if (number == HALF_A_LINE)
		shutdown(fd, SHUT_WR);
	if (number >= WATCHES - 1) {
		/* A change in two pieces, then a progress line. */
		struct svc_buf event;
		svc_buf_init(&event, 1 << 12);
		svc_buf_printf(&event,
		    "{\"result\":{\"watch_id\":\"%s\",\"events\":[{\"kv\":",
		    id);
		put_kv(&event, "late");
		svc_buf_puts(&event, "}]}}\n{\"result\":{\"header\":{}}}\n");
		fake_http_send(fd, event.data, 40);
		fake_http_send(fd, event.data + 40, event.len - 40);
		svc_buf_fini(&event);
	}
}

/* Takes the whole requests for watches out of what has come. */
static size_t
take_creates(int fd, const char *text, void *arg)
{
	static const char create[] = "{\"create_request\"";
	struct faulty *faulty = arg;
	const char *rest = text;
	for (;;) {
		char id[24];
		const char *at = strstr(rest, create);
		const char *end = at != NULL ? strstr(at, "}}") : NULL;
		const char *number =
		    at != NULL ? strstr(at, "\"watch_id\":\"") : NULL;
		if (end == NULL || number == NULL)
			return (size_t)(rest - text);
		rest = end + 2;
		number += strlen("\"watch_id\":\"");
		snprintf(faulty->create, sizeof(faulty->create), "%.*s",
		    (int)(rest - at), at);
		snprintf(id, sizeof(id), "%.*s",
		    (int)strspn(number, "0123456789"), number);
		if (faulty->is_silent)
			answer_with_one_event(faulty, fd, id);
		else
			answer_watch(faulty, fd, id);
	}
}

static void
answer_any(int fd, const char *request, void *arg)
{
	static const char head[] = "HTTP/1.1 200 OK\r\n\r\n";
	struct faulty *faulty = arg;
	if (strstr(request, "/v3/watch ") == NULL) {
		answer_range(faulty, fd);
	} else if (faulty->is_deaf) {
		fake_http_keep(&faulty->http, fd);
	} else {
		fake_http_send(fd, head, sizeof(head) - 1);
		fake_http_follow(&faulty->http, fd, request, take_creates);
	}
}

/* A watch of "s" at such a server, and what it was told. */
struct scene {
	struct faulty *faulty;
	struct recorder *recorder;
	struct svc_registry *registry;
	struct svc_watch *watch;
};

static struct recorder *
scene_begin(struct scene *scene, struct faulty *faulty)
{
	*scene = (struct scene){faulty, recorder_create(), NULL, NULL};
	fake_http_start(&faulty->http, answer_any, faulty);
	struct svc_registry_config config = {.address = faulty->http.address};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &scene->registry, NULL),
	    SVC_OK);
	assert_int_equal(
	    svc_registry_watch(scene->registry, "s", recorder_change,
		scene->recorder, &scene->watch, NULL),
	    SVC_OK);
	return scene->recorder;
}

static void
scene_end(struct scene *scene)
{
	svc_registry_unwatch(scene->watch);
	svc_registry_destroy(scene->registry);
	fake_http_stop(&scene->faulty->http);
	recorder_destroy(scene->recorder);
}

static void
every_break_brings_the_full_state_again(void **state)
{
	(void)state;
	static struct faulty faulty;
	struct scene scene;
	struct recorder *recorder = scene_begin(&scene, &faulty);
	for (int i = 1; i <= WATCHES; i++) {
		char id[16];
		snprintf(id, sizeof(id), "n%d", i);
		if (!recorder_wait(
			recorder, SVC_CREATED, "s", id, WAIT_MS, NULL))
			fail_msg("no full state after fault %d", i - 1);
	}
	assert_true(
	    recorder_wait(recorder, SVC_CREATED, "s", "late", WAIT_MS, NULL));
	assert_int_equal(recorder_nodes(recorder, "s"), WATCHES + 1);
	assert_int_equal(recorder_count(recorder, SVC_SYNCED, NULL, NULL), 1);
	scene_end(&scene);
}

static void
a_stream_that_says_nothing_is_opened_anew(void **state)
{
	(void)state;
	static struct faulty faulty = {.is_silent = true};
	struct scene scene;
	svc_clock_manual();
	struct recorder *recorder = scene_begin(&scene, &faulty);
	for (int i = 1; i <= 3; i++) {
		char id[16], start[40];
		snprintf(id, sizeof(id), "e%d", i);
		/* The first goes on behind the full state, the others behind
		 * the event that came last. */
		snprintf(start, sizeof(start), "\"start_revision\":\"%d\"",
		    i == 1 ? 6 : 8 + i);
		/* The wait has the manual clock: it is for the 5 s that the
		 * watch waits in libcurl, which has the real one. */
		while (atomic_load(&faulty.n_watches) < i ||
		       recorder_count(recorder, SVC_CREATED, "s", id) == 0) {
			svc_clock_advance(100);
			poll(NULL, 0, 10);
		}
		assert_non_null(strstr(faulty.create, start));
	}
	assert_int_equal(recorder_count(recorder, SVC_SYNCED, NULL, NULL), 1);
	scene_end(&scene);
	svc_clock_real();
}

/* As by something in between that keeps a request until it is complete. */
static void
a_stream_that_takes_no_watch_is_a_failure(void **state)
{
	(void)state;
	static struct faulty faulty = {.is_deaf = true};
	struct scene scene;
	svc_clock_manual();
	struct recorder *recorder = scene_begin(&scene, &faulty);
	/* What changes is seen by another full state at least. */
	while (recorder_count(recorder, SVC_CREATED, "s", "n2") == 0) {
		svc_clock_advance(100);
		poll(NULL, 0, 10);
	}
	scene_end(&scene);
	svc_clock_real();
}

static void
answer_json(int fd, const char *status, const char *json)
{
	struct svc_buf text;
	svc_buf_init(&text, 1 << 10);
	svc_buf_printf(&text,
	    "HTTP/1.1 %s\r\nConnection: close\r\n"
	    "Content-Length: %zu\r\n\r\n%s",
	    status, strlen(json), json);
	fake_http_send(fd, text.data, text.len);
	svc_buf_fini(&text);
	close(fd);
}

/* Each login costs etcd a tenth of a second of a processor. */
struct refusing {
	struct fake_http http;
	atomic_int n_logins;
};

static void
answer_refusing(int fd, const char *request, void *arg)
{
	struct refusing *refusing = arg;
	assert_non_null(strstr(request, "/v3/auth/authenticate "));
	atomic_fetch_add(&refusing->n_logins, 1);
	answer_json(fd, "400 Bad Request",
	    "{\"code\":3,\"message\":\"etcdserver: authentication failed, "
	    "invalid user ID or password\"}");
}

static void
watches_that_are_refused_log_in_together(void **state)
{
	(void)state;
	enum { MANY = 100, LOGINS = 60 };
	static struct refusing refusing;
	struct recorder *recorder = recorder_create();
	struct svc_registry *registry = NULL;
	struct svc_watch *many[MANY];
	fake_http_start(&refusing.http, answer_refusing, &refusing);
	struct svc_registry_config config = {.address = refusing.http.address,
	    .username = "svc",
	    .password = "wrong"};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, NULL), SVC_OK);
	int64_t since_ms = svc_now_ms(), until_ms = svc_deadline(WAIT_MS);
	for (int i = 0; i < MANY; i++) {
		char name[16];
		snprintf(name, sizeof(name), "s%d", i);
		assert_int_equal(svc_registry_watch(registry, name,
				     recorder_change, recorder, &many[i], NULL),
		    SVC_OK);
	}
	while (atomic_load(&refusing.n_logins) < LOGINS) {
		assert_true(svc_now_ms() < until_ms);
		poll(NULL, 0, 10);
	}
	/* Eight at a time, with pauses of 0.1 s, 0.16 s and so on. */
	assert_true(svc_now_ms() - since_ms >= 1000);
	for (int i = 0; i < MANY; i++)
		svc_registry_unwatch(many[i]);
	svc_registry_destroy(registry);
	fake_http_stop(&refusing.http);
	recorder_destroy(recorder);
}

/* Of keepalives, until two wait at the same time: the one that the keeper's
 * thread has sent, and that of an announcement. */
struct keeping {
	struct fake_http http;
	int waiting[FAKE_HTTP_OPEN_MAX];
	size_t n_waiting;
	bool answers;
	atomic_bool seen;
};

static bool
is_left(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void
answer_keepalive(struct keeping *keeping, int fd)
{
	static const char alive[] =
	    "{\"result\":{\"ID\":\"77\",\"TTL\":\"3\"}}";
	size_t n = 0;
	for (size_t i = 0; i < keeping->n_waiting; i++) {
		if (is_left(keeping->waiting[i]))
			close(keeping->waiting[i]);
		else
			keeping->waiting[n++] = keeping->waiting[i];
	}
	keeping->answers = keeping->answers || n > 0;
	if (!keeping->answers && n < FAKE_HTTP_OPEN_MAX)
		keeping->waiting[n++] = fd;
	else
		answer_json(fd, "200 OK", alive);
	while (keeping->answers && n > 0)
		answer_json(keeping->waiting[--n], "200 OK", alive);
	keeping->n_waiting = n;
	if (keeping->answers)
		atomic_store(&keeping->seen, true);
}

static void
answer_keeping(int fd, const char *request, void *arg)
{
	if (strstr(request, "/v3/lease/keepalive ") != NULL)
		answer_keepalive(arg, fd);
	else if (strstr(request, "/v3/lease/grant ") != NULL)
		answer_json(fd, "200 OK", "{\"ID\":\"77\",\"TTL\":\"3\"}");
	else
		answer_json(fd, "200 OK", "{\"header\":{\"revision\":\"5\"}}");
}

static void
an_announcement_renews_a_lease_that_is_late(void **state)
{
	(void)state;
	static struct keeping keeping;
	struct svc_registry *registry = NULL;
	struct sample sample;
	fake_http_start(&keeping.http, answer_keeping, &keeping);
	struct svc_registry_config config = {.address = keeping.http.address};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, NULL), SVC_OK);
	sample_init(&sample, "s", "1", "a", 1);
	int64_t until_ms = svc_deadline(WAIT_MS);
	while (!atomic_load(&keeping.seen) && svc_now_ms() < until_ms) {
		struct svc_error err = {0};
		if (svc_registry_announce(
			registry, &sample.record, 3000, &err) != SVC_OK)
			fail_msg("%s", err.text);
		poll(NULL, 0, 20); /* or it asks thousands of times */
	}
	assert_true(atomic_load(&keeping.seen));
	sample_fini(&sample);
	svc_registry_destroy(registry);
	fake_http_stop(&keeping.http);
	for (size_t i = 0; i < keeping.n_waiting; i++)
		close(keeping.waiting[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_break_brings_the_full_state_again),
	    cmocka_unit_test(a_stream_that_says_nothing_is_opened_anew),
	    cmocka_unit_test(a_stream_that_takes_no_watch_is_a_failure),
	    cmocka_unit_test(watches_that_are_refused_log_in_together),
	    cmocka_unit_test(an_announcement_renews_a_lease_that_is_late),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
