/* SPDX-License-Identifier: Apache-2.0 */
/* publish and subscribe */
#include "out.h"
#include "tool.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

int
run_publish(struct tool *tool)
{
	struct svc_message event = {
	    .content_type = "application/json", .headers = tool->headers};
	struct svc_error err = {.text = ""};
	struct svc_buf line;
	char *body;
	int status;
	svc_err rc;

	body = tool_body(tool, 1, &event.len, &status);
	if (body == NULL)
		return status;
	event.data = body;
	rc = svc_publish_detail(tool->service, tool->words[0], &event, &err);
	svc_mem_free(body);
	if (rc != SVC_OK) {
		tool_failed(rc, &err);
		return svc_exit_status(rc);
	}
	svc_buf_init(&line, SIZE_MAX);
	if (tool->json) {
		svc_buf_puts(&line, "{\"topic\":");
		out_json_text(&line, tool->words[0]);
		svc_buf_printf(&line, ",\"bytes\":%zu}", event.len);
	} else {
		svc_buf_printf(&line, "published %zu bytes to %s", event.len,
		    tool->words[0]);
	}
	return tool_print_line(&line);
}

struct subscribing {
	const struct tool *tool;
	pthread_mutex_t lock; /* guards the rest, and one line at a time */
	int64_t left;
	int status;
};

static void
put_event(struct svc_buf *line, const struct svc_event *event, bool json)
{
	const struct svc_message *m = svc_event_message(event);

	if (json) {
		svc_buf_puts(line, "{\"topic\":");
		out_json_text(line, svc_event_topic(event));
		svc_buf_puts(line, ",\"content_type\":");
		out_json_text(
		    line, m->content_type != NULL ? m->content_type : "");
		svc_buf_puts(line, ",\"headers\":");
		out_json_pairs(line, m->headers);
		svc_buf_puts(line, ",\"body\":");
	}
	out_json_body(line, m);
	if (json)
		svc_buf_putc(line, '}');
}

static svc_err
on_event(struct svc_event *event, void *arg)
{
	struct subscribing *subscribing = arg;
	struct svc_buf line;
	svc_err rc = SVC_OK;

	pthread_mutex_lock(&subscribing->lock);
	if (subscribing->left == 0 || subscribing->status != EXIT_OK) {
		/* More than was asked for: it is for others in the queue. */
		rc = SVC_E_UNAVAILABLE;
	} else {
		svc_buf_init(&line, SIZE_MAX);
		put_event(&line, event, subscribing->tool->json);
		subscribing->status = tool_print_line(&line);
		if (subscribing->left > 0)
			subscribing->left--;
		if (subscribing->status != EXIT_OK)
			rc = SVC_E_UNAVAILABLE;
		if (subscribing->left == 0 || subscribing->status != EXIT_OK)
			svc_stop(subscribing->tool->service);
	}
	pthread_mutex_unlock(&subscribing->lock);
	return rc;
}

static struct svc_service *to_stop;

static void
on_signal(int number)
{
	(void)number;
	svc_stop(to_stop);
}

/* From the moment that "subscribed" is said a signal ends this in order, also
 * before svc_run looks after signals itself. NULL: no longer. */
static void
catch_signals(struct svc_service *service)
{
	struct sigaction action = {
	    .sa_handler = service != NULL ? on_signal : SIG_DFL,
	    .sa_flags = SA_RESTART,
	};

	if (service != NULL)
		to_stop = service;
	poll(NULL, 0, 0); /* see svc_run_begin */
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

int
run_subscribe(struct tool *tool)
{
	struct subscribing subscribing = {
	    .tool = tool,
	    .lock = PTHREAD_MUTEX_INITIALIZER,
	    .left = tool->count > 0 ? tool->count : -1,
	};
	svc_err rc;

	if (tool->queue != NULL)
		rc = svc_subscribe(tool->service, tool->words[0], on_event,
		    &subscribing, queue(tool->queue));
	else
		rc = svc_subscribe(
		    tool->service, tool->words[0], on_event, &subscribing);
	if (rc == SVC_OK) {
		catch_signals(tool->service);
		rc = svc_start(tool->service);
	}
	if (rc == SVC_OK) {
		/* For people, and for programs that must know when. */
		fprintf(stderr, "subscribed to %s\n", tool->words[0]);
		rc = svc_run(tool->service);
	}
	catch_signals(NULL);
	if (rc != SVC_OK) {
		out_error(rc, "%s", svc_error_text(tool->service));
		return svc_exit_status(rc);
	}
	/* The handlers have ended with svc_run. */
	return subscribing.status;
}
