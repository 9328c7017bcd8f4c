/* SPDX-License-Identifier: Apache-2.0 */
/* Headers and trailers of a stream, the call it belongs to, and why it failed
 * last. */
#include "stream.h"

#include <string.h>
#include <strings.h>

static svc_err
set(struct svc_stream *stream, struct svc_headers **headers, const char *what,
    const char *name, const char *value)
{
	if (*headers == NULL)
		*headers = svc_headers_create();
	svc_err code = SVC_E_NOMEM;
	if (name != NULL && strcasecmp(name, SVC_NOT_RUN_HEADER) == 0)
		return svc_stream_fail(stream, SVC_E_INVAL,
		    "%s \"%s\" is the framework's own", what, name);
	if (*headers != NULL)
		code = name != NULL && value != NULL
			   ? svc_headers_set(*headers, name, value)
			   : SVC_E_INVAL;
	if (code == SVC_OK)
		return SVC_OK;
	char quoted[80];
	return svc_stream_fail(stream, code, "%s %s: %s", what,
	    svc_log_quote(name != NULL ? name : "",
		name != NULL ? strlen(name) : 0, quoted, sizeof(quoted)),
	    svc_pair_rule(code));
}

svc_err
svc_stream_set_header(
    struct svc_stream *stream, const char *name, const char *value)
{
	if (stream == NULL)
		return SVC_E_INVAL;
	svc_err code;
	pthread_mutex_lock(&stream->lock);
	if (!stream->server)
		code = svc_stream_fail(stream, SVC_E_PRECONDITION,
		    "a client's headers are given to svc_open, by "
		    "header(\"name\", \"value\")");
	else if (stream->sent_headers)
		code = svc_stream_fail(stream, SVC_E_PRECONDITION,
		    "the headers went with the first message");
	else
		code = set(stream, &stream->own_headers, "header", name, value);
	pthread_mutex_unlock(&stream->lock);
	return code;
}

svc_err
svc_stream_set_trailer(
    struct svc_stream *stream, const char *name, const char *value)
{
	if (stream == NULL)
		return SVC_E_INVAL;
	svc_err code;
	pthread_mutex_lock(&stream->lock);
	if (stream->sent_end && !stream->server)
		code = svc_stream_fail(stream, SVC_E_PRECONDITION,
		    "the trailers went with the end of the sending side");
	else
		code =
		    set(stream, &stream->own_trailers, "trailer", name, value);
	pthread_mutex_unlock(&stream->lock);
	return code;
}

const char *
svc_stream_header(struct svc_stream *stream, const char *name)
{
	if (stream == NULL)
		return NULL;
	pthread_mutex_lock(&stream->lock);
	const char *value = svc_headers_get(stream->headers, name);
	pthread_mutex_unlock(&stream->lock);
	return value;
}

const char *
svc_stream_trailer(struct svc_stream *stream, const char *name)
{
	if (stream == NULL)
		return NULL;
	pthread_mutex_lock(&stream->lock);
	const char *value = svc_headers_get(stream->trailers, name);
	pthread_mutex_unlock(&stream->lock);
	return value;
}

struct svc_call *
svc_stream_call(struct svc_stream *stream)
{
	return stream != NULL ? stream->call : NULL;
}

void
svc_stream_forget(struct svc_stream *stream)
{
	if (stream != NULL && stream->call != NULL)
		svc_call_forget(stream->call);
}

svc_err
svc_stream_error(struct svc_stream *stream, struct svc_error *ret)
{
	struct svc_error last = {.code = SVC_E_INVAL};
	if (stream == NULL) {
		svc_error_set(&last, SVC_E_INVAL, "there is no stream");
	} else {
		pthread_mutex_lock(&stream->lock);
		last = stream->last;
		pthread_mutex_unlock(&stream->lock);
	}
	if (ret != NULL)
		*ret = last;
	return last.code;
}
