/* SPDX-License-Identifier: Apache-2.0 */
/* Listens to enrolments and counts whom it has heard of. A service like any
 * other: brokers without a server find it through the registry. It ends on a
 * signal, or when it knows as many students as --count says, and then prints
 * one line of JSON. */
#include <svc/svc.h>

#include "student.pb-c.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <string.h>

struct listener {
	struct svc_service *service;
	const struct svc_codec_ops *json;
	int count; /* --count */
	/* One handler runs at a time, and main looks only after it. */
	void *names; /* a tree of texts */
	int events, distinct, unreadable;
};

static int
compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

static svc_err
remember(struct listener *listener, const char *name)
{
	if (tfind(name, &listener->names, compare) != NULL)
		return SVC_OK;
	char *copy = svc_mem_strdup(name);
	if (copy == NULL || tsearch(copy, &listener->names, compare) == NULL) {
		svc_mem_free(copy);
		return SVC_E_NOMEM;
	}
	listener->distinct++;
	return SVC_OK;
}

/* The name in the header and in the body must be the same. */
static svc_err
check(const struct listener *listener, const struct svc_event *event,
    struct svc_error *err)
{
	const struct svc_message *message = svc_event_message(event);
	const char *name = svc_event_header(event, "name");
	struct ProtobufCMessage *body;
	if (name == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "it has no header \"name\"");
	svc_err code = listener->json->decode(&school__student__descriptor,
	    message->data, message->len, &body, err);
	if (code != SVC_OK)
		return code;
	if (strcmp(((const School__Student *)body)->name, name) != 0)
		code = svc_error_set(err, SVC_E_INVAL,
		    "the header and the body name different students");
	svc_message_destroy(body);
	return code;
}

static svc_err
on_enrolment(struct svc_event *event, void *arg)
{
	struct listener *listener = arg;
	struct svc_error why = {0};
	listener->events++;
	if (check(listener, event, &why) != SVC_OK) {
		/* It would be no better a second time. */
		listener->unreadable++;
		svc_log(SVC_LOG_WARN, "listener.unreadable",
		    "an event is left out: %s", why.text);
		return SVC_OK;
	}
	svc_err code = remember(listener, svc_event_header(event, "name"));
	if (code == SVC_OK && listener->count > 0 &&
	    listener->distinct >= listener->count)
		svc_stop(listener->service);
	return code;
}

int
main(int argc, char *argv[])
{
	struct listener listener = {0};
	struct svc_codecs *codecs = NULL;
	struct svc_error why = {0};
	struct svc_service *s = svc_new(name("student-listener"),
	    flag("count", "End when so many students are known; 0: on a signal",
		&listener.count));
	listener.service = s;
	svc_err err = svc_init(s, argc, argv);
	if (err == SVC_OK && listener.count < 0)
		err = svc_error_set(&why, SVC_E_INVAL,
		    "--count=%d must be 0 (until a signal) or more",
		    listener.count);
	if (err == SVC_OK)
		err = svc_codecs_create(&codecs, &why);
	if (err == SVC_OK)
		err = svc_codecs_find(
		    codecs, "application/json", &listener.json, &why);
	if (err == SVC_OK)
		err = svc_subscribe(
		    s, "go.micro.srv.message", on_enrolment, &listener);
	if (err == SVC_OK)
		err = svc_run(s);
	if (err != SVC_OK && err != SVC_E_DONE)
		fprintf(stderr, "%s: %s\n", program_invocation_short_name,
		    why.text[0] != '\0' ? why.text : svc_error_text(s));
	svc_free(s); /* no event comes after it */
	if (err == SVC_OK)
		printf("{\"events\":%d,\"distinct\":%d,\"unreadable\":%d}\n",
		    listener.events, listener.distinct, listener.unreadable);
	tdestroy(listener.names, svc_mem_free);
	svc_codecs_destroy(codecs);
	return svc_exit_status(err);
}
