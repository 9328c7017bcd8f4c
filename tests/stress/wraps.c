/* SPDX-License-Identifier: Apache-2.0 */
#include "wraps.h"

#include "stress.h"

struct wraps {
	_Atomic int64_t inside;
	_Atomic unsigned turns;
};

/* Whether this one is stopped. */
static bool
enter(struct wraps *wraps)
{
	STRESS_CHECK(atomic_fetch_add(&wraps->inside, 1) >= 0);
	return atomic_fetch_add(&wraps->turns, 1) % 16 == 7;
}

static svc_err
leave(struct wraps *wraps, svc_err code)
{
	STRESS_CHECK(atomic_fetch_sub(&wraps->inside, 1) > 0);
	return code;
}

static svc_err
stop(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_ABORTED, "stopped on its way");
}

static svc_err
call_ended(svc_err code, const struct svc_message *rsp, struct svc_error *err,
    void *arg)
{
	size_t sum = 0;
	for (size_t i = 0; i < rsp->len; i++)
		sum += ((const unsigned char *)rsp->data)[i];
	/* The end may be changed too. */
	if (code == SVC_OK && sum % 31 == 7)
		code = svc_error_set(err, SVC_E_ABORTED, "changed at its end");
	return leave(arg, code);
}

static svc_err
around_call(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	if (enter(arg))
		return leave(arg, stop(call->err));
	return svc_call_then(call, next, next_arg, call_ended, arg);
}

static svc_err
around_handler(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, svc_handler next, void *next_arg, void *arg)
{
	if (enter(arg))
		return leave(
		    arg, svc_fail(call, SVC_E_ABORTED, "stopped on its way"));
	return leave(arg, next(call, req, rsp, next_arg));
}

static struct svc_stream *
around_open(const struct svc_opening *opening, svc_open_next next,
    void *next_arg, void *arg)
{
	struct svc_stream *stream = NULL;
	if (enter(arg))
		stop(opening->err);
	else
		stream = next(opening, next_arg);
	leave(arg, SVC_OK);
	return stream;
}

static svc_err
around_stream(struct svc_stream *stream, svc_stream_handler next,
    void *next_arg, void *arg)
{
	if (enter(arg))
		return leave(arg, SVC_E_ABORTED);
	return leave(arg, next(stream, next_arg));
}

static svc_err
around_publish(const struct svc_publishing *event, svc_publish_next next,
    void *next_arg, void *arg)
{
	if (enter(arg))
		return leave(arg, stop(event->err));
	return leave(arg, next(event, next_arg));
}

static svc_err
around_event(
    struct svc_event *event, svc_event_handler next, void *next_arg, void *arg)
{
	/* It comes again. */
	if (enter(arg))
		return leave(arg, SVC_E_ABORTED);
	return leave(arg, next(event, next_arg));
}

struct wraps *
wraps_create(void)
{
	struct wraps *wraps = svc_mem_calloc(1, sizeof(*wraps));
	STRESS_CHECK(wraps != NULL);
	return wraps;
}

void
wraps_options(struct wraps *wraps, struct svc_option ret_options[WRAPS])
{
	const struct svc_option options[WRAPS] = {
	    SVC_OPT_wrap_call(around_call, wraps),
	    SVC_OPT_wrap_handler(around_handler, wraps),
	    SVC_OPT_wrap_open(around_open, wraps),
	    SVC_OPT_wrap_stream_handler(around_stream, wraps),
	    SVC_OPT_wrap_publish(around_publish, wraps),
	    SVC_OPT_wrap_subscribe(around_event, wraps),
	};
	for (int i = 0; i < WRAPS; i++)
		ret_options[i] = options[i];
}

void
wraps_destroy(struct wraps *wraps)
{
	if (wraps == NULL)
		return;
	STRESS_CHECK(atomic_load(&wraps->inside) == 0);
	svc_mem_free(wraps);
}
