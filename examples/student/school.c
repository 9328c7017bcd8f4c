/* SPDX-License-Identifier: Apache-2.0 */
#include "school.h"

#include <errno.h>
#include <stdio.h>

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
