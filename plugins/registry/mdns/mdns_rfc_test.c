/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RFC 6762 and 6763, rule by rule, seen from the wire: this test is an mDNS
 * peer at the group's port, or a plain DNS client at one of its own. All on lo
 * and a port of their own.
 */
#include "mdns_kit.h"
#include "mdns_packet.h"

#include <svc/log.h>

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TYPE "_svc._tcp.local"
#define ENUMERATION "_services._dns-sd._udp.local"
#define FIRST "ours-1@ours." TYPE
#define SECOND "ours-2@ours." TYPE
#define HOST "svc-127-0-0-1.local"
#define TTL_MS 100000

static struct svc_registry *registry; /* announces ours-1 and ours-2 */
static int fd;                        /* at the group's port */

/* ---------------------------------------------------------------- helpers */

/** A packet that was heard, and one record of it. */
struct heard {
	uint8_t data[9000];
	size_t len;
	struct mdns_header header;
	struct mdns_rr rr;
	uint16_t from_port;
};

/* The first record of this name, type and (unless NULL) target. */
static bool
find(struct heard *heard, const char *name, uint16_t type, const char *target)
{
	struct mdns_reader reader;
	if (!mdns_read(&reader, heard->data, heard->len))
		return false;
	while (mdns_read_record(&reader, &heard->rr))
		if (heard->rr.type == type &&
		    strcmp(heard->rr.name.text, name) == 0 &&
		    (target == NULL ||
			strcmp(heard->rr.target.text, target) == 0))
			return true;
	return false;
}

/* The next response that has such a record. */
static bool
hear(int at, struct heard *heard, const char *name, uint16_t type,
    const char *target, int64_t timeout_ms)
{
	int64_t deadline = svc_deadline(timeout_ms);
	for (;;) {
		struct sockaddr_in from;
		ssize_t n = receive(at, heard->data, sizeof(heard->data), &from,
		    svc_remaining(deadline));
		if (n < 0)
			return false;
		heard->len = (size_t)n;
		heard->from_port = ntohs(from.sin_port);
		struct mdns_reader reader;
		if (!mdns_read(&reader, heard->data, heard->len) ||
		    (reader.header.flags & MDNS_FLAG_RESPONSE) == 0)
			continue;
		heard->header = reader.header;
		if (find(heard, name, type, target))
			return true;
	}
}

static struct mdns_writer
question(const char *name, uint16_t type, uint16_t class, uint16_t flags)
{
	struct mdns_writer writer;
	mdns_write(&writer, 0x1234, flags);
	if (name != NULL)
		mdns_write_question(&writer, name, type, class);
	return writer;
}

static void
known(struct mdns_writer *writer, const char *name, const char *target,
    uint32_t ttl)
{
	const struct mdns_record record = {
	    .name = name, .type = MDNS_TYPE_PTR, .ttl = ttl, .target = target};
	mdns_write_record(writer, MDNS_ANSWER, &record, false);
}

static void
send_from(int from, struct mdns_writer *writer)
{
	assert_int_equal(mdns_write_end(writer), SVC_OK);
	send_to(from, GROUP, port, writer->data, writer->len);
}

static void
ask(int from, const char *name, uint16_t type)
{
	struct mdns_writer writer = question(name, type, MDNS_CLASS_IN, 0);
	send_from(from, &writer);
}

/* Until what was said to the group may be said again. */
static void
calm(void)
{
	struct heard heard;
	int64_t until = svc_deadline(1100);
	while (svc_remaining(until) > 0)
		hear(fd, &heard, "none", 0, NULL, svc_remaining(until));
}

static int
setup(void **state)
{
	struct heard heard;
	(void)state;
	fd = group_socket();
	registry = registry_at(address);
	assert_int_equal(
	    announce(registry, "ours", "ours-1", "red", TTL_MS), SVC_OK);
	assert_int_equal(
	    announce(registry, "ours", "ours-2", "red", TTL_MS), SVC_OK);
	for (int i = 0; i < 3; i++)
		assert_true(
		    hear(fd, &heard, TYPE, MDNS_TYPE_PTR, SECOND, PATIENCE_MS));
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	svc_registry_destroy(registry);
	close(fd);
	return 0;
}

/* ------------------------------------------------------------------ tests */

/* 6: to the group, id 0, no question, after a delay for shared records; all in
 * one packet; 6763 12: with what will be asked for next. */
static void
browsing_is_answered(void **state)
{
	(void)state;
	struct heard heard;
	calm();
	int64_t from = svc_now_ms();
	ask(fd, "_SVC._tcp.Local", MDNS_TYPE_PTR);
	assert_true(hear(fd, &heard, TYPE, MDNS_TYPE_PTR, FIRST, PATIENCE_MS));
	assert_true(svc_now_ms() - from >= 19);
	assert_int_equal(heard.from_port, port);
	assert_int_equal(heard.header.id, 0);
	assert_int_equal(heard.header.flags, 0x8400);
	assert_int_equal(heard.header.n_questions, 0);
	assert_int_equal(heard.header.n_answers, 2);
	assert_int_equal(heard.rr.class, MDNS_CLASS_IN);
	assert_in_range(heard.rr.ttl, 1, TTL_MS / 1000);
	assert_true(find(&heard, TYPE, MDNS_TYPE_PTR, SECOND));
	assert_int_equal(heard.rr.section, MDNS_ANSWER);
	/* 10.2: unique records replace what is in caches. */
	assert_true(find(&heard, FIRST, MDNS_TYPE_SRV, HOST));
	assert_int_equal(heard.rr.section, MDNS_ADDITIONAL);
	assert_int_equal(heard.rr.class, MDNS_CLASS_IN | MDNS_CLASS_TOP);
	assert_int_equal(heard.rr.port, 4242);
	assert_true(find(&heard, SECOND, MDNS_TYPE_SRV, HOST));
	assert_true(find(&heard, FIRST, MDNS_TYPE_TXT, NULL));
	static const char txt[] = "\x09txtvers=1\x0cservice=ours\x0d"
				  "version=1.0.0\x09id=ours-1\x09"
				  "color=red";
	assert_int_equal(heard.rr.len, sizeof(txt) - 1);
	assert_memory_equal(heard.rr.data, txt, sizeof(txt) - 1);
	/* Both are on one host, whose address is said once. */
	assert_true(find(&heard, HOST, MDNS_TYPE_A, NULL));
	assert_memory_equal(heard.rr.data, "\x7f\0\0\1", 4);
	assert_int_equal(heard.header.n_additionals, 2 + 2 + 1 + 1);
	/* 6: not again within a second; a try that took longer says nothing. */
	for (;;) {
		calm();
		from = svc_now_ms();
		ask(fd, TYPE, MDNS_TYPE_PTR);
		assert_true(
		    hear(fd, &heard, TYPE, MDNS_TYPE_PTR, NULL, PATIENCE_MS));
		ask(fd, TYPE, MDNS_TYPE_PTR);
		bool again = hear(fd, &heard, TYPE, MDNS_TYPE_PTR, NULL, 400);
		if (svc_now_ms() - from >= 1000)
			continue;
		assert_false(again);
		break;
	}
}

static void
other_questions_are_answered(void **state)
{
	(void)state;
	struct heard heard;
	calm();
	/* 6763 9: which types there are; 7.1: one service's nodes. */
	ask(fd, ENUMERATION, MDNS_TYPE_PTR);
	assert_true(
	    hear(fd, &heard, ENUMERATION, MDNS_TYPE_PTR, TYPE, PATIENCE_MS));
	assert_int_equal(heard.header.n_answers, 1);
	ask(fd, "_ours._sub." TYPE, MDNS_TYPE_PTR);
	assert_true(hear(
	    fd, &heard, "_ours._sub." TYPE, MDNS_TYPE_PTR, FIRST, PATIENCE_MS));
	calm();
	ask(fd, FIRST, MDNS_TYPE_SRV);
	assert_true(hear(fd, &heard, FIRST, MDNS_TYPE_SRV, HOST, PATIENCE_MS));
	assert_int_equal(heard.rr.section, MDNS_ANSWER);
	assert_int_equal(heard.header.n_answers, 1);
	assert_true(find(&heard, HOST, MDNS_TYPE_A, NULL));
	calm();
	ask(fd, FIRST, MDNS_TYPE_ANY);
	assert_true(hear(fd, &heard, FIRST, MDNS_TYPE_TXT, NULL, PATIENCE_MS));
	assert_int_equal(heard.header.n_answers, 2);
	ask(fd, HOST, MDNS_TYPE_A);
	/* The address was said with the SRV record just now; later it is. */
	calm();
	ask(fd, HOST, MDNS_TYPE_A);
	assert_true(hear(fd, &heard, HOST, MDNS_TYPE_A, NULL, PATIENCE_MS));
	assert_int_equal(heard.rr.section, MDNS_ANSWER);
	/* 6.1: what the name has not. */
	calm();
	ask(fd, HOST, MDNS_TYPE_AAAA);
	assert_true(hear(fd, &heard, HOST, MDNS_TYPE_NSEC, NULL, PATIENCE_MS));
	assert_int_equal(heard.rr.section, MDNS_ANSWER);
	assert_memory_equal(
	    heard.rr.data + heard.rr.len - 3, "\x00\x01\x40", 3);
	/* What is nobody's name has no answer. */
	ask(fd, "other.local", MDNS_TYPE_ANY);
	ask(fd, "_other._sub." TYPE, MDNS_TYPE_PTR);
	assert_false(
	    hear(fd, &heard, "other.local", MDNS_TYPE_NSEC, NULL, 300));
}

/* 7.1: what the asker knows is not said, unless he is about to forget it. */
static void
known_answers_are_left_out(void **state)
{
	(void)state;
	struct heard heard;
	calm();
	struct mdns_writer writer =
	    question(TYPE, MDNS_TYPE_PTR, MDNS_CLASS_IN, 0);
	known(&writer, TYPE, FIRST, TTL_MS / 1000);
	send_from(fd, &writer);
	assert_true(hear(fd, &heard, TYPE, MDNS_TYPE_PTR, SECOND, PATIENCE_MS));
	assert_int_equal(heard.header.n_answers, 1);
	assert_false(find(&heard, TYPE, MDNS_TYPE_PTR, FIRST));
	calm();
	writer = question(TYPE, MDNS_TYPE_PTR, MDNS_CLASS_IN, 0);
	known(&writer, TYPE, FIRST, TTL_MS / 1000 / 4);
	known(&writer, TYPE, SECOND, TTL_MS / 1000);
	send_from(fd, &writer);
	assert_true(hear(fd, &heard, TYPE, MDNS_TYPE_PTR, FIRST, PATIENCE_MS));
	assert_int_equal(heard.header.n_answers, 1);
	/* It works in go-micro's domain and for one-shot questions too. */
	int own = udp_socket("127.0.0.1", 0, false);
	writer = question("ours.micro", MDNS_TYPE_PTR, MDNS_CLASS_IN, 0);
	known(&writer, "ours.micro", "ours-1.ours.micro", TTL_MS / 1000);
	send_from(own, &writer);
	assert_true(hear(own, &heard, "ours.micro", MDNS_TYPE_PTR,
	    "ours-2.ours.micro", PATIENCE_MS));
	assert_false(hear(own, &heard, "ours.micro", MDNS_TYPE_PTR, NULL, 300));
	close(own);
}

/* 7.2: known answers may need several packets; the answer waits for them. */
static void
more_known_answers_are_waited_for(void **state)
{
	(void)state;
	struct heard heard;
	calm();
	struct mdns_writer writer =
	    question(TYPE, MDNS_TYPE_PTR, MDNS_CLASS_IN, MDNS_FLAG_TRUNCATED);
	known(&writer, TYPE, FIRST, TTL_MS / 1000);
	struct mdns_writer more = question(NULL, 0, 0, 0);
	known(&more, TYPE, SECOND, TTL_MS / 1000);
	send_from(fd, &writer);
	send_from(fd, &more);
	assert_false(hear(fd, &heard, TYPE, MDNS_TYPE_PTR, NULL, 900));
	/* When they do not come the answer does. */
	writer =
	    question(TYPE, MDNS_TYPE_PTR, MDNS_CLASS_IN, MDNS_FLAG_TRUNCATED);
	known(&writer, TYPE, FIRST, TTL_MS / 1000);
	int64_t from = svc_now_ms();
	send_from(fd, &writer);
	assert_true(hear(fd, &heard, TYPE, MDNS_TYPE_PTR, SECOND, PATIENCE_MS));
	assert_true(svc_now_ms() - from >= 399);
	assert_int_equal(heard.header.n_answers, 1);
}

/* 5.4: who asks for it is answered alone, if the group has heard it lately. */
static void
unicast_answers_are_given(void **state)
{
	(void)state;
	struct heard heard;
	int group = udp_socket(GROUP, port, true);
	struct ip_mreq join = {.imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
	inet_pton(AF_INET, GROUP, &join.imr_multiaddr);
	assert_int_equal(setsockopt(group, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join,
			     sizeof(join)),
	    0);
	assert_int_equal(
	    announce(registry, "ours", "ours-1", "red", TTL_MS), SVC_OK);
	calm();
	struct mdns_writer writer =
	    question(FIRST, MDNS_TYPE_SRV, MDNS_CLASS_IN | MDNS_CLASS_TOP, 0);
	while (hear(group, &heard, "none", 0, NULL, 0))
		;
	send_from(fd, &writer);
	assert_true(hear(fd, &heard, FIRST, MDNS_TYPE_SRV, HOST, PATIENCE_MS));
	assert_int_equal(heard.header.n_questions, 0);
	assert_false(hear(group, &heard, FIRST, MDNS_TYPE_SRV, NULL, 300));
	close(group);
}

/* 6.7: a plain DNS client, such as dig. */
static void
plain_dns_is_answered(void **state)
{
	(void)state;
	struct heard heard;
	struct mdns_reader reader;
	struct mdns_question echoed;
	int own = udp_socket("127.0.0.1", 0, false);
	ask(own, TYPE, MDNS_TYPE_PTR);
	assert_true(hear(own, &heard, TYPE, MDNS_TYPE_PTR, FIRST, PATIENCE_MS));
	assert_int_equal(heard.header.id, 0x1234);
	assert_int_equal(heard.header.n_questions, 1);
	assert_true(mdns_read(&reader, heard.data, heard.len));
	assert_true(mdns_read_question(&reader, &echoed));
	assert_string_equal(echoed.name.text, TYPE);
	assert_int_equal(heard.rr.ttl, 10);
	assert_true(find(&heard, FIRST, MDNS_TYPE_SRV, HOST));
	assert_int_equal(heard.rr.class, MDNS_CLASS_IN);
	assert_int_equal(heard.rr.ttl, 10);
	assert_false(hear(own, &heard, TYPE, MDNS_TYPE_PTR, NULL, 300));
	close(own);
}

/* 7.4: what another has just said need not be said again. That is a race with
 * the delay of the answer, so there are some tries. */
static void
answers_of_others_suffice(void **state)
{
	(void)state;
	bool silent = false;
	for (int i = 0; i < 5 && !silent; i++) {
		struct heard heard;
		struct mdns_writer writer;
		calm();
		writer = question(
		    NULL, 0, 0, MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE);
		known(&writer, ENUMERATION, TYPE, TTL_MS / 1000);
		ask(fd, ENUMERATION, MDNS_TYPE_PTR);
		send_from(fd, &writer);
		/* Its own is heard, too; no second one follows. */
		assert_true(hear(
		    fd, &heard, ENUMERATION, MDNS_TYPE_PTR, TYPE, PATIENCE_MS));
		silent =
		    !hear(fd, &heard, ENUMERATION, MDNS_TYPE_PTR, TYPE, 400);
	}
	assert_true(silent);
}

static _Atomic int conflicts;

static void
count_conflicts(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "mdns.conflict") == 0 &&
	    strstr(line->text, "ours-1") != NULL)
		conflicts++;
}

/* 9: names follow from what they name, so another owner of one is a mistake
 * of somebody's settings; it is said once. */
static void
a_second_owner_is_logged(void **state)
{
	(void)state;
	struct heard heard;
	svc_log_set_sink(count_conflicts, NULL);
	for (int i = 0; i < 2; i++) {
		for (uint16_t to = 4242; to <= 4243; to++) {
			struct mdns_writer writer = question(NULL, 0, 0,
			    MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE);
			const struct mdns_record record = {.name = FIRST,
			    .type = MDNS_TYPE_SRV,
			    .unique = true,
			    .ttl = 120,
			    .port = to,
			    .target = HOST};
			mdns_write_record(&writer, MDNS_ANSWER, &record, true);
			send_from(fd, &writer);
			/* It was read when the plugin answers the next. */
			calm();
			ask(fd, FIRST, MDNS_TYPE_TXT);
			assert_true(hear(fd, &heard, FIRST, MDNS_TYPE_TXT, NULL,
			    PATIENCE_MS));
			assert_int_equal(conflicts, i > 0 || to > 4242);
		}
	}
	svc_log_set_sink(NULL, NULL);
}

/* The browser's side of 7.1 and 7.2. */
static void
the_browser_says_what_it_knows(void **state)
{
	(void)state;
	enum { N = 100 };
	struct seen seen;
	for (int i = 0; i < N; i++) {
		char id[64];
		snprintf(
		    id, sizeof(id), "many-with-a-name-of-some-length-%d", i);
		assert_int_equal(
		    announce(registry, "many", id, "red", TTL_MS), SVC_OK);
	}
	/* Until all announcements are over. */
	struct heard heard;
	while (hear(fd, &heard, "many.micro", MDNS_TYPE_PTR, NULL, 2500))
		;
	struct svc_registry *asking = registry_at(address);
	struct svc_watch *watch = seen_start(&seen, asking, "many");
	assert_true(seen_wait(&seen, SVC_CREATED, N, PATIENCE_MS));
	/* Its second question, after one second: all packets of it. */
	size_t n_known = 0, n_more = 0, n_own = 0;
	bool more = true;
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (more || n_own == 0) {
		struct mdns_reader reader;
		struct mdns_question asked;
		struct sockaddr_in from;
		ssize_t n = receive(fd, heard.data, sizeof(heard.data), &from,
		    svc_remaining(deadline));
		assert_true(n > 12);
		assert_true(mdns_read(&reader, heard.data, (size_t)n));
		if ((reader.header.flags & MDNS_FLAG_RESPONSE) != 0 ||
		    reader.header.n_answers == 0)
			continue;
		assert_in_range(n, 12, 1472);
		if (mdns_read_question(&reader, &asked))
			assert_string_equal(asked.name.text, "many.micro");
		bool truncated =
		    (reader.header.flags & MDNS_FLAG_TRUNCATED) != 0;
		/* go-micro would not read it. */
		if (ntohs(from.sin_port) != port) {
			assert_false(truncated);
			n_own++;
			continue;
		}
		n_more += reader.header.n_questions == 0;
		n_known += reader.header.n_answers;
		more = truncated;
	}
	assert_int_equal(n_known, N);
	assert_true(n_more > 0);
	assert_int_equal(n_own, 1);
	/* Nobody answers what is known. */
	assert_false(hear(fd, &heard, "many.micro", MDNS_TYPE_PTR, NULL, 600));
	svc_registry_unwatch(watch);
	svc_registry_destroy(asking);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(browsing_is_answered),
	    cmocka_unit_test(other_questions_are_answered),
	    cmocka_unit_test(known_answers_are_left_out),
	    cmocka_unit_test(more_known_answers_are_waited_for),
	    cmocka_unit_test(unicast_answers_are_given),
	    cmocka_unit_test(plain_dns_is_answered),
	    cmocka_unit_test(answers_of_others_suffice),
	    cmocka_unit_test(a_second_owner_is_logged),
	    cmocka_unit_test(the_browser_says_what_it_knows),
	};
	if (!port_pick())
		return 1;
	return cmocka_run_group_tests_name("mdns_rfc", tests, setup, teardown);
}
