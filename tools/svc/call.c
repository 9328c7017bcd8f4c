/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"
#include "out.h"
#include "tool.h"

#include <string.h>

bool
tool_explain_endpoint(
    const struct tool *tool, const char *service, const char *endpoint)
{
	struct svc_record_list list = {0};
	struct svc_buf names;
	bool has = false;

	if (svc_registry_lookup(
		svc_registry_of(tool->service), service, &list, NULL) != SVC_OK)
		return false;
	svc_buf_init(&names, 700);
	for (size_t i = 0; i < list.n_records; i++) {
		const struct svc_record *record = list.records[i];

		for (size_t j = 0; j < record->n_endpoints; j++) {
			const struct svc_endpoint *e = &record->endpoints[j];

			if (svc_headers_get(e->metadata, "subscriber") != NULL)
				continue;
			has = has || strcmp(e->name, endpoint) == 0;
			svc_buf_printf(
			    &names, "%s%s", names.len > 0 ? ", " : "", e->name);
		}
	}
	svc_record_list_fini(&list);
	if (!has)
		out_error(SVC_E_UNIMPLEMENTED,
		    "%s has no endpoint %s; it has %s%s", service, endpoint,
		    names.len > 0 ? (const char *)names.data : "none",
		    names.failed != SVC_OK ? ", ..." : "");
	svc_buf_fini(&names);
	return !has;
}

int
tool_print_message(const struct tool *tool, const struct svc_message *reply)
{
	const char *type =
	    reply->content_type != NULL ? reply->content_type : "";
	struct svc_buf line;
	bool json;

	svc_buf_init(&line, SIZE_MAX);
	if (tool->json) {
		out_json_body(&line, reply);
		return tool_print_line(&line);
	}
	json = strncmp(type, "text/", 5) != 0 && reply->len > 0 &&
	       json_check(reply->data, reply->len, NULL) == SVC_OK;
	if (json && out_is_terminal()) {
		json_format(&line, reply->data, reply->len, true);
	} else if (out_is_terminal() && !out_is_text(reply->data, reply->len)) {
		svc_buf_fini(&line);
		fprintf(stderr,
		    "svc: %zu bytes of %s came, not printed on a "
		    "terminal; use --json or redirect it\n",
		    reply->len, type[0] != '\0' ? type : "an unknown type");
		return EXIT_OK;
	} else if (!json && !out_is_text(reply->data, reply->len)) {
		/* Bytes stay as they are, without a line's end. */
		svc_buf_fini(&line);
		fwrite(reply->data, 1, reply->len, stdout);
		return EXIT_OK;
	} else {
		svc_buf_append(&line, reply->data, reply->len);
	}
	return tool_print_line(&line);
}

bool
tool_names_fit(const struct tool *tool)
{
	struct svc_error err = {.text = ""};

	if (svc_service_name_check(tool->words[0], &err) == SVC_OK &&
	    tool->words[1][0] == '\0')
		svc_error_set(
		    &err, SVC_E_INVAL, "the name of the endpoint is empty");
	if (err.code != SVC_OK)
		tool_failed(err.code, &err);
	return err.code == SVC_OK;
}

struct svc_option *
tool_call_options(const struct tool *tool, struct svc_error *err)
{
	/* Headers, then the others and the end. */
	size_t n = 0, count = svc_headers_count(tool->headers);
	struct svc_option *options =
	    svc_mem_calloc(count + 3, sizeof(*options));
	const char *name, *value;

	if (options == NULL)
		return NULL;
	for (; svc_headers_at(tool->headers, n, &name, &value); n++)
		options[n] = (struct svc_option){
		    .kind = SVC_OPTION_HEADER, .text = name, .text2 = value};
	options[n++] =
	    (struct svc_option){.kind = SVC_OPTION_DETAIL, .pointer = err};
	if (tool->timeout_ms > 0)
		options[n++] = (struct svc_option){
		    .kind = SVC_OPTION_TIMEOUT_MS, .number = tool->timeout_ms};
	options[n].kind = SVC_OPTION_END;
	return options;
}

int
run_call(struct tool *tool)
{
	const char *service = tool->words[0], *endpoint = tool->words[1];
	struct svc_message request = {.content_type = "application/json"};
	struct svc_message reply = {0};
	struct svc_error err = {.text = ""};
	struct svc_option *options;
	char *body;
	int status;
	svc_err rc;

	if (!tool_names_fit(tool))
		return EXIT_USAGE;
	body = tool_body(tool, 2, &request.len, &status);
	if (body == NULL)
		return status;
	request.data = body;
	options = tool_call_options(tool, &err);
	if (options == NULL) {
		svc_mem_free(body);
		return tool_no_memory();
	}
	rc = svc_call_options(svc_client_of(tool->service), service, endpoint,
	    &request, &reply, options);
	if (rc == SVC_OK)
		status = tool_print_message(tool, &reply);
	else if (rc == SVC_E_UNIMPLEMENTED &&
		 tool_explain_endpoint(tool, service, endpoint))
		status = EXIT_FAILED;
	else
		status = tool_failed(rc, &err);
	svc_message_free(&reply);
	svc_mem_free(options);
	svc_mem_free(body);
	return status;
}
