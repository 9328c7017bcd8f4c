/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/broker.h>: what is carried, whole and apart. */
#include <conformance/broker_inbox.h>

#include <support/lacks.h>

void
carries_everything(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("greet");
	member_subscribe(b, topic, NULL, inbox);

	struct svc_headers *headers = svc_headers_create();
	assert_int_equal(
	    svc_headers_set(headers, "trace", "<\"\xc3\xbc\">"), SVC_OK);
	struct svc_message message = {
	    "application/json", "{\"a\":1}\n", 8, headers};
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, 0, &err), SVC_OK);
	inbox_expect(inbox, 1);
	assert_string_equal(inbox->got[0].text, "{\"a\":1}\n");
	assert_int_equal(inbox->got[0].len, 8);
	assert_string_equal(inbox->got[0].type, "application/json");
	assert_string_equal(inbox->got[0].trace, "<\"\xc3\xbc\">");
	assert_string_equal(inbox->got[0].topic, topic);
	assert_int_equal(strlen(inbox->got[0].id), 36);
	/* The publisher's own headers are left alone. */
	assert_int_equal(svc_headers_count(headers), 1);

	/* An id that is there already is kept. */
	assert_int_equal(svc_headers_set(headers, "Micro-Id", "mine"), SVC_OK);
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, 0, &err), SVC_OK);
	inbox_expect(inbox, 2);
	assert_string_equal(inbox->got[1].id, "mine");
	svc_headers_destroy(headers);
	member_after(state);
	inbox_free(inbox);
}

void
any_bytes(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("bytes");
	member_subscribe(b, topic, NULL, inbox);

	size_t sizes[] = {0, 1, 2, 3, 255, 256, 70000, (size_t)MAX_MESSAGE};
	unsigned char *data = malloc((size_t)MAX_MESSAGE);
	assert_non_null(data);
	for (size_t i = 0; i < (size_t)MAX_MESSAGE; i++)
		data[i] = (unsigned char)(i * 7 + (i >> 8));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct svc_message message = {NULL, data, sizes[i], NULL};
		struct svc_error err = {0};
		if (svc_broker_publish(a, topic, &message, 0, &err) != SVC_OK)
			fail_msg("%zu bytes: %s", sizes[i], err.text);
		inbox_expect(inbox, i + 1);
		assert_int_equal(inbox->got[i].len, sizes[i]);
		assert_string_equal(inbox->got[i].type, "");
		pthread_mutex_lock(&inbox->lock);
		assert_memory_equal(inbox->last, data, sizes[i]);
		pthread_mutex_unlock(&inbox->lock);
	}
	free(data);
	member_after(state);
	inbox_free(inbox);
}

void
nobody_listens(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	member_publish(a, member_topic("nobody"), "lost");
}

void
topics_do_not_mix(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	const char *names[] = {
	    "x", "x/y", "x.y", "X", "x y", "\xc3\xa4", "a:b=c"};
	enum { N = sizeof(names) / sizeof(names[0]) };
	struct inbox *inboxes[N];
	for (int i = 0; i < N; i++) {
		inboxes[i] = inbox_make();
		member_subscribe(a, member_topic(names[i]), NULL, inboxes[i]);
	}
	for (int i = 0; i < N; i++)
		member_publish(a, member_topic(names[i]), names[i]);
	for (int i = 0; i < N; i++)
		inbox_expect(inboxes[i], 1);
	member_after(state);
	for (int i = 0; i < N; i++) {
		assert_int_equal(inboxes[i]->n, 1);
		assert_string_equal(inboxes[i]->got[0].text, names[i]);
		inbox_free(inboxes[i]);
	}
}

void
bad_arguments(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	struct inbox *inbox = inbox_make();
	char longest[257];
	memset(longest, 'x', sizeof(longest));
	longest[256] = '\0';
	const char *bad[] = {"", "a+b", "a/#", "a\nb", "a\x7f", "\xff",
	    "\xc0\x80", "\xed\xa0\x80", longest};
	struct svc_message message = {NULL, "x", 1, NULL};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_error err = {0};
		struct svc_subscription *subscription = NULL;
		assert_int_equal(
		    svc_broker_publish(a, bad[i], &message, 0, &err),
		    SVC_E_INVAL);
		assert_non_null(strstr(err.text, "allowed"));
		assert_int_equal(svc_broker_subscribe(a, bad[i], NULL,
				     inbox_event, inbox, &subscription, &err),
		    SVC_E_INVAL);
		if (bad[i][0] != '\0')
			assert_int_equal(
			    svc_broker_subscribe(a, member_topic("q"), bad[i],
				inbox_event, inbox, &subscription, &err),
			    SVC_E_INVAL);
		assert_null(subscription);
	}
	char *big = calloc(1, (size_t)MAX_MESSAGE + 1);
	assert_non_null(big);
	struct svc_message too_big = {NULL, big, (size_t)MAX_MESSAGE + 1, NULL};
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_publish(a, member_topic("big"), &too_big, 0, &err),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "1048577"));
	free(big);
	longest[255] = '\0';
	member_publish(a, longest, "fits");
	member_after(state);
	inbox_free(inbox);
}

void
foreign_payloads_are_skipped(void **state)
{
	(void)state;
	if (member_setup->inject == NULL)
		test_lacks("payloads of other programs");
	struct svc_broker *a = member_make_connected(0);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("foreign");
	member_subscribe(a, topic, NULL, inbox);
	member_setup->inject(member_setup->arg, topic, "no json at all", 14);
	member_setup->inject(
	    member_setup->arg, topic, "{\"Body\":\"%%%\"}", 14);
	member_setup->inject(member_setup->arg, topic, "", 0);
	const char good[] = "{\"header\":{\"Content-Type\":\"text/plain\","
			    "\"Micro-Topic\":\"x\"},\"body\":\"aGkh\"}";
	member_setup->inject(member_setup->arg, topic, good, sizeof(good) - 1);
	inbox_expect(inbox, 1);
	assert_string_equal(inbox->got[0].text, "hi!");
	assert_string_equal(inbox->got[0].type, "text/plain");
	member_publish(a, topic, "still here");
	inbox_expect(inbox, 2);
	member_after(state);
	assert_int_equal(inbox->n, 2);
	inbox_free(inbox);
}
