/* SPDX-License-Identifier: Apache-2.0 */
#include "school.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

svc_err
school_open(
    struct school *school, struct svc_service *service, int argc, char *argv[])
{
	*school = (struct school){.path = ROSTER_FILE};
	struct svc_setting setting = {
	    .name = "roster",
	    .kind = SVC_SETTING_APP_TEXT,
	    .target = &school->path,
	    .value = "FILE",
	    .help = "The students, one JSON object a line",
	    .group = "Application",
	};
	if (service == NULL)
		return SVC_E_NOMEM;
	svc_err code =
	    svc_settings_add(svc_settings_of(service), &setting, &school->why);
	if (code == SVC_OK)
		code = svc_init(service, argc, argv);
	if (code == SVC_OK)
		code = roster_load(&school->roster, school->path, &school->why);
	return code;
}

int
school_close(struct school *school, struct svc_service *service, svc_err err)
{
	if (err != SVC_OK && err != SVC_E_DONE)
		fprintf(stderr, "%s: %s\n", program_invocation_short_name,
		    school->why.text[0] != '\0' ? school->why.text
						: svc_error_text(service));
	svc_free(service);
	roster_free(&school->roster);
	return svc_exit_status(err);
}

/* Who is asked for, and the header that says who answers. */
static svc_err
find(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, const struct school *school,
    const struct roster_entry **ret_entry)
{
	struct svc_service *service = svc_call_service(call);
	struct ProtobufCMessage *message;
	svc_err code = svc_headers_set(
	    rsp->headers, SCHOOL_NODE_HEADER, svc_options_of(service)->id);
	if (code == SVC_OK)
		code = svc_read(call, req, &school__name__descriptor, &message);
	if (code != SVC_OK)
		return code;
	const char *name = ((const School__Name *)message)->name;
	*ret_entry = roster_find(&school->roster, name);
	if (*ret_entry == NULL)
		return svc_fail(
		    call, SVC_E_NOT_FOUND, "no student is called \"%s\"", name);
	return SVC_OK;
}

svc_err
school_get(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const struct roster_entry *entry;
	svc_err code = find(call, req, rsp, arg, &entry);
	if (code == SVC_OK)
		code = svc_write(call, rsp, &entry->student->base);
	return code;
}

static svc_err
announce(struct svc_call *call, const struct roster_entry *entry)
{
	struct svc_error why = {0};
	struct svc_message event = {
	    .content_type = "application/json",
	    .data = entry->line,
	    .len = entry->len,
	    .headers = svc_headers_create(),
	};
	svc_err code = SVC_E_NOMEM;
	if (event.headers != NULL)
		code = svc_headers_set(
		    event.headers, "name", entry->student->name);
	if (code == SVC_OK)
		code = svc_publish_detail(
		    svc_call_service(call), SCHOOL_TOPIC, &event, &why);
	svc_headers_destroy(event.headers);
	if (code != SVC_OK)
		return svc_fail(call, code,
		    "the enrolment is not announced: %s",
		    why.text[0] != '\0' ? why.text : svc_err_text(code));
	return SVC_OK;
}

svc_err
school_enrol(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const struct roster_entry *entry;
	svc_err code = find(call, req, rsp, arg, &entry);
	if (code == SVC_OK)
		code = announce(call, entry);
	if (code == SVC_OK)
		code = svc_write(call, rsp, &entry->student->base);
	return code;
}

/* The next name that comes; it lives until svc_stream_forget. */
static svc_err
receive_name(struct svc_stream *stream, const char **ret_name)
{
	struct svc_message message;
	struct ProtobufCMessage *name;
	svc_err code = svc_stream_recv(stream, &message);
	if (code == SVC_OK)
		code = svc_read(svc_stream_call(stream), &message,
		    &school__name__descriptor, &name);
	if (code == SVC_OK)
		*ret_name = ((const School__Name *)name)->name;
	return code;
}

static svc_err
send_student(struct svc_stream *stream, const School__Student *student)
{
	struct svc_message message = {0};
	svc_err code =
	    svc_write(svc_stream_call(stream), &message, &student->base);
	if (code == SVC_OK)
		code = svc_stream_send(stream, &message);
	return code;
}

svc_err
school_list(struct svc_stream *stream, void *arg)
{
	const struct school *school = arg;
	const char *name = NULL;
	svc_err code = receive_name(stream, &name);
	if (code == SVC_E_EOF)
		return svc_fail(svc_stream_call(stream), SVC_E_INVAL,
		    "a Name must come first; an empty one asks for everybody");
	/* A copy: what was received is forgotten before each answer. */
	char begins[256];
	snprintf(begins, sizeof(begins), "%s", code == SVC_OK ? name : "");
	for (size_t i = 0; code == SVC_OK && i < school->roster.n; i++) {
		const School__Student *student =
		    school->roster.by_name[i]->student;
		svc_stream_forget(stream);
		if (strncmp(student->name, begins, strlen(begins)) == 0)
			code = send_student(stream, student);
	}
	return code;
}

svc_err
school_find(struct svc_stream *stream, void *arg)
{
	const struct school *school = arg;
	const char *name;
	svc_err code;
	while ((code = receive_name(stream, &name)) == SVC_OK) {
		const struct roster_entry *entry =
		    roster_find(&school->roster, name);
		if (entry == NULL)
			return svc_fail(svc_stream_call(stream),
			    SVC_E_NOT_FOUND, "no student is called \"%s\"",
			    name);
		code = send_student(stream, entry->student);
		if (code != SVC_OK)
			break;
		svc_stream_forget(stream);
	}
	/* SVC_E_EOF: the client needs no more. That is a good end. */
	return code;
}

svc_err
school_serve(struct school *school, struct svc_service *service)
{
	static const struct {
		const char *endpoint;
		svc_handler fn;
	} calls[] = {
	    {"Student.Get", school_get},
	    {"Student.Enrol", school_enrol},
	};
	static const struct {
		const char *endpoint;
		svc_stream_handler fn;
	} streams[] = {
	    {"Student.List", school_list},
	    {"Student.Find", school_find},
	};
	svc_err err = SVC_OK;
	for (size_t i = 0; err == SVC_OK && i < 2; i++)
		err = svc_handle(service, calls[i].endpoint, calls[i].fn,
		    school, idempotent(),
		    types(&school__name__descriptor,
			&school__student__descriptor));
	for (size_t i = 0; err == SVC_OK && i < 2; i++)
		err = svc_handle_stream(service, streams[i].endpoint,
		    streams[i].fn, school, idempotent(),
		    types(&school__name__descriptor,
			&school__student__descriptor));
	return err;
}
