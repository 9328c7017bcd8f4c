/* SPDX-License-Identifier: Apache-2.0 */
/* health: what each node of a service says of itself. */
#include "out.h"
#include "tool.h"

#include <string.h>

#define LINE_MAX_LEN ((size_t)1 << 24)

struct asking {
	struct tool *tool;
	const char *service;
	struct out_table table;
	struct svc_buf line; /* with --json */
	size_t n;
	bool ill; /* one did not answer, or not "ok" */
};

/* The text behind "status", or all that was said when there is none. */
static void
status_of(const struct svc_message *reply, struct svc_buf *out)
{
	static const char name[] = "\"status\":\"";
	const char *data = reply->data;
	const char *at = reply->len > 0
			     ? memmem(data, reply->len, name, sizeof(name) - 1)
			     : NULL;
	size_t len = reply->len;

	if (at != NULL) {
		at += sizeof(name) - 1;
		const char *end =
		    memchr(at, '"', (size_t)(data + reply->len - at));
		len = end != NULL ? (size_t)(end - at) : 0;
	}
	svc_buf_append(out, at != NULL ? at : data, len);
}

static void
ask(struct asking *asking, const struct svc_node *node)
{
	struct svc_message request = {"application/json", "{}", 2, NULL};
	struct svc_message reply = {0};
	struct svc_error err = {.text = ""};
	struct svc_buf status;
	int64_t timeout_ms = asking->tool->timeout_ms;
	const struct svc_option options[] = {SVC_CALL_OPT_node(node->address),
	    SVC_CALL_OPT_retries(0), SVC_CALL_OPT_detail(&err),
	    SVC_CALL_OPT_timeout_ms(timeout_ms > 0 ? timeout_ms : 2000),
	    SVC_CALL_OPT_end()};
	svc_err rc;

	svc_buf_init(&status, LINE_MAX_LEN);
	rc = svc_call_options(svc_client_of(asking->tool->service),
	    asking->service, "Debug.Health", &request, &reply, options);
	if (rc == SVC_OK)
		status_of(&reply, &status);
	else
		svc_buf_puts(&status, err.text);
	svc_buf_putc(&status, '\0');
	const char *text =
	    status.failed == SVC_OK ? (const char *)status.data : "";
	bool well = rc == SVC_OK && strcmp(text, "ok") == 0;
	asking->ill = asking->ill || !well;
	if (asking->tool->json) {
		svc_buf_puts(&asking->line, asking->n > 0 ? "," : "");
		svc_buf_puts(&asking->line, "{\"id\":");
		out_json_text(&asking->line, node->id);
		svc_buf_puts(&asking->line, ",\"address\":");
		out_json_text(&asking->line, node->address);
		svc_buf_puts(&asking->line,
		    rc == SVC_OK ? ",\"status\":" : ",\"error\":");
		out_json_text(&asking->line, text);
		svc_buf_putc(&asking->line, '}');
	} else {
		out_cell(&asking->table, OUT_PLAIN, "%s", node->id);
		out_cell(&asking->table, OUT_PLAIN, "%s", node->address);
		out_cell(&asking->table, well ? OUT_GOOD : OUT_BAD, "%s", text);
	}
	asking->n++;
	svc_buf_fini(&status);
	svc_message_free(&reply);
}

int
run_health(struct tool *tool)
{
	struct svc_record_list list = {0};
	struct svc_error err = {.text = ""};
	struct asking asking = {
	    .tool = tool, .service = tool->words[0], .table = {.columns = 3}};
	int status = EXIT_OK;
	svc_err rc;

	rc = svc_registry_lookup(
	    svc_registry_of(tool->service), asking.service, &list, &err);
	if (rc == SVC_E_NOT_FOUND)
		svc_error_set(
		    &err, rc, "service not found: %s", asking.service);
	if (rc != SVC_OK) {
		tool_registry_failed(rc, &err);
		return svc_exit_status(rc);
	}
	svc_buf_init(&asking.line, LINE_MAX_LEN);
	svc_buf_putc(&asking.line, '[');
	if (!tool->json) {
		out_cell(&asking.table, OUT_HEAD, "NODE");
		out_cell(&asking.table, OUT_HEAD, "ADDRESS");
		out_cell(&asking.table, OUT_HEAD, "STATUS");
	}
	for (size_t i = 0; i < list.n_records; i++)
		for (size_t k = 0; k < list.records[i]->n_nodes; k++)
			ask(&asking, &list.records[i]->nodes[k]);
	svc_record_list_fini(&list);
	svc_buf_putc(&asking.line, ']');
	if (tool->json) {
		status = tool_print_line(&asking.line);
	} else {
		svc_buf_fini(&asking.line);
		if (out_table_end(&asking.table, 0) != SVC_OK)
			status = tool_no_memory();
	}
	return status == EXIT_OK && asking.ill ? EXIT_FAILED : status;
}
