/* SPDX-License-Identifier: Apache-2.0 */
/* Faults that a real etcd does not give on demand: a watch that is ended
 * because its history was compacted, half a line, rubbish, an error. After
 * each of them the plugin must ask for the full state again. */
#include <conformance/registry.h>

#include <svc/buf.h>
#include <svc/clock.h>

#include <arpa/inet.h>
#include <netinet/in.h>
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

enum { WAIT_MS = 30000, OPEN_MAX = 16 };

/* What it answers to its first, second, ... watch; the last one goes on. */
static const char *const watches[] = {
    ("{\"result\":{\"created\":true}}\n"
     "{\"result\":{\"canceled\":true,\"compact_revision\":\"10\"}}\n"),
    "{\"result\":{\"created\":true}}\nrubbish\n",
    "{\"result\":{\"created\":true,\"events\":[{\"kv\":",
    "{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}\n",
    /* Behind the revision 5 of the full state. */
    "{\"result\":{\"header\":{\"revision\":\"4\"},\"created\":true}}\n",
    "{\"result\":{\"created\":true}}\n",
};
enum { WATCHES = sizeof(watches) / sizeof(watches[0]) };

struct faulty {
	pthread_t thread;
	int listener;
	char address[32];
	atomic_bool ending;
	bool is_silent; /* a watch gets one event, then nothing */
	atomic_int n_watches, n_ranges;
	char create[1024]; /* the request of the last watch */
	int open[OPEN_MAX];
	size_t n_open;
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

static void
send_text(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
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
	send_text(fd, (const char *)head.data, head.len);
	send_text(fd, (const char *)body.data, body.len);
	svc_buf_fini(&head);
	svc_buf_fini(&body);
	close(fd);
}

static void
keep_open(struct faulty *faulty, int fd)
{
	if (faulty->n_open < OPEN_MAX)
		faulty->open[faulty->n_open++] = fd;
	else
		close(fd);
}

/* The nth watch tells of node "eN" at revision 8 + N. */
static void
answer_with_one_event(struct faulty *faulty, int fd)
{
	struct svc_buf text;
	char id[16];
	int n = atomic_load(&faulty->n_watches) + 1;
	snprintf(id, sizeof(id), "e%d", n);
	svc_buf_init(&text, 1 << 12);
	svc_buf_puts(&text,
	    "HTTP/1.1 200 OK\r\n\r\n{\"result\":{\"header\":{\"revision\":"
	    "\"30\"},\"created\":true}}\n");
	/* The head is ahead of the event, as etcd's is of a watch that has
	 * still to catch up. */
	svc_buf_puts(&text,
	    "{\"result\":{\"header\":{\"revision\":\"30\"},\"events\":[{"
	    "\"kv\":");
	put_kv_at(&text, id, 8 + n);
	svc_buf_puts(&text, "}]}}\n");
	send_text(fd, (const char *)text.data, text.len);
	svc_buf_fini(&text);
	keep_open(faulty, fd);
	atomic_fetch_add(&faulty->n_watches, 1);
}

static void
answer_watch(struct faulty *faulty, int fd)
{
	static const char head[] = "HTTP/1.1 200 OK\r\n\r\n";
	int number = atomic_fetch_add(&faulty->n_watches, 1);
	const char *text = watches[number < WATCHES ? number : WATCHES - 1];
	send_text(fd, head, sizeof(head) - 1);
	send_text(fd, text, strlen(text));
	if (number == 2) {
		close(fd);
		return;
	}
	if (number >= WATCHES - 1) {
		/* A change in two pieces, then a progress line. */
		struct svc_buf event;
		svc_buf_init(&event, 1 << 12);
		svc_buf_puts(&event, "{\"result\":{\"events\":[{\"kv\":");
		put_kv(&event, "late");
		svc_buf_puts(&event, "}]}}\n{\"result\":{\"header\":{}}}\n");
		send_text(fd, (const char *)event.data, 40);
		send_text(fd, (const char *)event.data + 40, event.len - 40);
		svc_buf_fini(&event);
	}
	/* Open and silent, as etcd leaves a watch that it has ended. */
	keep_open(faulty, fd);
}

/* The head and, as its length says, the body of one request. */
static bool
read_request(int fd, char *text, size_t size)
{
	size_t len = 0;
	for (;;) {
		const char *body, *length;
		ssize_t n = recv(fd, text + len, size - 1 - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
		text[len] = '\0';
		body = strstr(text, "\r\n\r\n");
		length = strcasestr(text, "content-length:");
		if (body != NULL && length != NULL &&
		    strlen(body + 4) >= strtoul(length + 15, NULL, 10))
			return true;
	}
}

static void *
serve(void *arg)
{
	struct faulty *faulty = arg;
	char request[4096];
	for (;;) {
		int fd = accept(faulty->listener, NULL, NULL);
		if (fd < 0 || atomic_load(&faulty->ending)) {
			if (fd >= 0)
				close(fd);
			return NULL;
		}
		if (!read_request(fd, request, sizeof(request))) {
			close(fd);
		} else if (strstr(request, "/v3/watch ") != NULL) {
			snprintf(faulty->create, sizeof(faulty->create), "%s",
			    strstr(request, "\r\n\r\n") + 4);
			if (faulty->is_silent)
				answer_with_one_event(faulty, fd);
			else
				answer_watch(faulty, fd);
		} else {
			answer_range(faulty, fd);
		}
	}
}

static void
faulty_start(struct faulty *faulty)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	faulty->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(faulty->listener >= 0);
	assert_int_equal(
	    bind(faulty->listener, (struct sockaddr *)&in, len), 0);
	assert_int_equal(listen(faulty->listener, 16), 0);
	assert_int_equal(
	    getsockname(faulty->listener, (struct sockaddr *)&in, &len), 0);
	snprintf(faulty->address, sizeof(faulty->address), "127.0.0.1:%d",
	    ntohs(in.sin_port));
	assert_int_equal(
	    svc_thread_start(&faulty->thread, "faulty", serve, faulty), SVC_OK);
}

static void
faulty_stop(struct faulty *faulty)
{
	atomic_store(&faulty->ending, true);
	shutdown(faulty->listener, SHUT_RDWR);
	svc_thread_join(faulty->thread);
	close(faulty->listener);
	for (size_t i = 0; i < faulty->n_open; i++)
		close(faulty->open[i]);
}

static void
every_break_brings_the_full_state_again(void **state)
{
	(void)state;
	static struct faulty faulty;
	struct recorder *recorder = recorder_create();
	struct svc_registry *registry = NULL;
	struct svc_watch *watch = NULL;
	faulty_start(&faulty);
	struct svc_registry_config config = {.address = faulty.address};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, NULL), SVC_OK);
	assert_int_equal(svc_registry_watch(registry, "s", recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
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
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	faulty_stop(&faulty);
	recorder_destroy(recorder);
}

static void
a_stream_that_says_nothing_is_opened_anew(void **state)
{
	(void)state;
	static struct faulty faulty = {.is_silent = true};
	struct recorder *recorder = recorder_create();
	struct svc_registry *registry = NULL;
	struct svc_watch *watch = NULL;
	svc_clock_manual();
	faulty_start(&faulty);
	struct svc_registry_config config = {.address = faulty.address};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, NULL), SVC_OK);
	assert_int_equal(svc_registry_watch(registry, "s", recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
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
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	faulty_stop(&faulty);
	recorder_destroy(recorder);
	svc_clock_real();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_break_brings_the_full_state_again),
	    cmocka_unit_test(a_stream_that_says_nothing_is_opened_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
