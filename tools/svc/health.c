/* SPDX-License-Identifier: Apache-2.0 */
/*
 * health: what each node of a service says of itself. Nodes are asked side by
 * side, so that those that are silent cost one timeout together.
 *
 * Lock: asking.lock guards `open` alone. What an answer fills is its own until
 * it is not open any longer.
 */
#include "out.h"
#include "tool.h"

#include <svc/clock.h>

#include <string.h>

#define LINE_MAX_LEN ((size_t)1 << 24)
#define AT_ONCE 32

struct asking {
	pthread_mutex_t lock;
	pthread_cond_t answered;
	size_t open;
};

/* One node. */
struct answer {
	struct asking *asking;
	const struct svc_node *node;
	svc_err code;
	char *text; /* the status, or why there is none; NULL: no memory */
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
answer_end(struct answer *answer)
{
	struct asking *asking = answer->asking;
	pthread_mutex_lock(&asking->lock);
	asking->open--;
	pthread_cond_broadcast(&asking->answered);
	pthread_mutex_unlock(&asking->lock);
}

static void
on_answer(svc_err code, const struct svc_message *reply,
    const struct svc_error *detail, void *arg)
{
	struct answer *answer = arg;
	struct svc_buf text;
	svc_buf_init(&text, LINE_MAX_LEN);
	if (code == SVC_OK)
		status_of(reply, &text);
	else
		svc_buf_puts(&text, detail->text);
	svc_buf_putc(&text, '\0');
	answer->code = code;
	answer->text = svc_buf_take(&text, NULL);
	svc_buf_fini(&text);
	answer_end(answer);
}

/* Waits until no more than so many nodes are being asked. */
static void
wait_open(struct asking *asking, size_t most)
{
	pthread_mutex_lock(&asking->lock);
	while (asking->open > most)
		svc_cond_wait(&asking->answered, &asking->lock, INT64_MAX);
	pthread_mutex_unlock(&asking->lock);
}

static void
ask(struct answer *answer, struct tool *tool)
{
	struct asking *asking = answer->asking;
	const struct svc_message request = {"application/json", "{}", 2, NULL};
	struct svc_error err = {.text = ""};
	const struct svc_option options[] = {
	    SVC_CALL_OPT_node(answer->node->address), SVC_CALL_OPT_retries(0),
	    SVC_CALL_OPT_timeout_ms(
		tool->timeout_ms > 0 ? tool->timeout_ms : 2000),
	    SVC_CALL_OPT_end()};
	svc_err rc;

	wait_open(asking, AT_ONCE - 1);
	pthread_mutex_lock(&asking->lock);
	asking->open++;
	pthread_mutex_unlock(&asking->lock);
	rc =
	    svc_call_async_options(svc_client_of(tool->service), tool->words[0],
		"Debug.Health", &request, on_answer, answer, options);
	if (rc != SVC_OK) {
		svc_error_set(&err, rc, "%s", svc_err_text(rc));
		on_answer(rc, NULL, &err, answer);
	}
}

static bool
is_well(const struct answer *answer)
{
	return answer->code == SVC_OK && answer->text != NULL &&
	       strcmp(answer->text, "ok") == 0;
}

static int
print_json(const struct answer *answers, size_t n)
{
	struct svc_buf line;

	svc_buf_init(&line, LINE_MAX_LEN);
	svc_buf_putc(&line, '[');
	for (size_t i = 0; i < n; i++) {
		const struct answer *answer = &answers[i];
		svc_buf_puts(&line, i > 0 ? ",{\"id\":" : "{\"id\":");
		out_json_text(&line, answer->node->id);
		svc_buf_puts(&line, ",\"address\":");
		out_json_text(&line, answer->node->address);
		svc_buf_puts(&line,
		    answer->code == SVC_OK ? ",\"status\":" : ",\"error\":");
		out_json_text(&line, answer->text);
		svc_buf_putc(&line, '}');
	}
	svc_buf_putc(&line, ']');
	return tool_print_line(&line);
}

static int
print_table(const struct answer *answers, size_t n)
{
	struct out_table table = {.columns = 3};

	out_cell(&table, OUT_HEAD, "NODE");
	out_cell(&table, OUT_HEAD, "ADDRESS");
	out_cell(&table, OUT_HEAD, "STATUS");
	for (size_t i = 0; i < n; i++) {
		const struct answer *answer = &answers[i];
		out_cell(&table, OUT_PLAIN, "%s", answer->node->id);
		out_cell(&table, OUT_PLAIN, "%s", answer->node->address);
		out_cell(&table, is_well(answer) ? OUT_GOOD : OUT_BAD, "%s",
		    answer->text);
	}
	return out_table_end(&table, 0) == SVC_OK ? EXIT_OK : tool_no_memory();
}

/* In the order of the list, whoever answers first. */
static int
ask_all(struct tool *tool, const struct svc_record_list *list)
{
	struct asking asking = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct answer *answers;
	size_t n = 0;
	int status = EXIT_OK;
	bool ill = false, no_memory = false;

	for (size_t i = 0; i < list->n_records; i++)
		n += list->records[i]->n_nodes;
	answers = svc_mem_calloc(n, sizeof(*answers));
	if (answers == NULL)
		return tool_no_memory();
	svc_cond_init(&asking.answered);
	n = 0;
	for (size_t i = 0; i < list->n_records; i++)
		for (size_t k = 0; k < list->records[i]->n_nodes; k++) {
			answers[n].asking = &asking;
			answers[n].node = &list->records[i]->nodes[k];
			ask(&answers[n++], tool);
		}
	wait_open(&asking, 0);
	for (size_t i = 0; i < n; i++) {
		ill = ill || !is_well(&answers[i]);
		no_memory = no_memory || answers[i].text == NULL;
	}
	if (no_memory)
		status = tool_no_memory();
	else
		status = tool->json ? print_json(answers, n)
				    : print_table(answers, n);
	for (size_t i = 0; i < n; i++)
		svc_mem_free(answers[i].text);
	svc_mem_free(answers);
	pthread_cond_destroy(&asking.answered);
	pthread_mutex_destroy(&asking.lock);
	return status == EXIT_OK && ill ? EXIT_FAILED : status;
}

int
run_health(struct tool *tool)
{
	struct svc_record_list list = {0};
	struct svc_error err = {.text = ""};
	const char *service = tool->words[0];

	svc_err rc = svc_registry_lookup(
	    svc_registry_of(tool->service), service, &list, &err);
	if (rc == SVC_E_NOT_FOUND)
		svc_error_set(&err, rc, "service not found: %s", service);
	if (rc != SVC_OK) {
		tool_registry_failed(rc, &err);
		return svc_exit_status(rc);
	}
	int status = ask_all(tool, &list);
	svc_record_list_fini(&list);
	return status;
}
