/* SPDX-License-Identifier: Apache-2.0 */
/* list, get and watch: what the registry knows. */
#include "out.h"
#include "tool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define NO_LIMIT SIZE_MAX

static bool
is_tool(const struct svc_node *node)
{
	return svc_headers_get(node->metadata, TOOL_MARK) != NULL;
}

static size_t
nodes_of_others(const struct svc_record *record)
{
	size_t n = 0;

	for (size_t i = 0; i < record->n_nodes; i++)
		n += !is_tool(&record->nodes[i]);
	return n;
}

/* -------------------------------------------------------------------- list */

struct listing {
	bool json;
	bool any;
	struct svc_buf line;
	struct out_table table;
};

static void
list_one(struct listing *listing, const struct svc_record *record)
{
	size_t nodes = nodes_of_others(record);

	if (nodes == 0)
		return;
	if (listing->json) {
		svc_buf_puts(&listing->line, listing->any ? "," : "");
		svc_buf_puts(&listing->line, "{\"name\":");
		out_json_text(&listing->line, record->name);
		svc_buf_puts(&listing->line, ",\"version\":");
		out_json_text(&listing->line, record->version);
		svc_buf_printf(&listing->line, ",\"nodes\":%zu}", nodes);
	} else {
		if (!listing->any) {
			out_cell(&listing->table, OUT_HEAD, "SERVICE");
			out_cell(&listing->table, OUT_HEAD, "VERSION");
			out_cell(&listing->table, OUT_HEAD, "NODES");
		}
		out_cell(&listing->table, OUT_NAME, "%s", record->name);
		out_cell(&listing->table, OUT_PLAIN, "%s",
		    record->version[0] != '\0' ? record->version : "-");
		out_cell(&listing->table, OUT_PLAIN, "%zu", nodes);
	}
	listing->any = true;
}

/* Some registries name the services only; each is then asked for. */
static svc_err
list_all(struct svc_registry *registry, struct listing *listing,
    struct svc_error *err)
{
	struct svc_record_list list = {0}, found;
	const char *last = "";
	svc_err rc;

	rc = svc_registry_list(registry, &list, err);
	for (size_t i = 0; rc == SVC_OK && i < list.n_records; i++) {
		const struct svc_record *record = list.records[i];

		if (record->n_nodes > 0) {
			list_one(listing, record);
			continue;
		}
		if (strcmp(record->name, last) == 0)
			continue;
		last = record->name;
		found = (struct svc_record_list){0};
		rc = svc_registry_lookup(registry, record->name, &found, err);
		for (size_t j = 0; rc == SVC_OK && j < found.n_records; j++)
			list_one(listing, found.records[j]);
		svc_record_list_fini(&found);
		if (rc == SVC_E_NOT_FOUND) /* gone between the questions */
			rc = SVC_OK;
	}
	svc_record_list_fini(&list);
	return rc;
}

int
run_list(struct tool *tool)
{
	struct listing listing = {.json = tool->json, .table = {.columns = 3}};
	struct svc_error err = {.text = ""};
	svc_err rc;

	svc_buf_init(&listing.line, NO_LIMIT);
	svc_buf_putc(&listing.line, '[');
	rc = list_all(svc_registry_of(tool->service), &listing, &err);
	if (rc == SVC_OK && tool->json) {
		svc_buf_putc(&listing.line, ']');
		return tool_print_line(&listing.line);
	}
	svc_buf_fini(&listing.line);
	/* What was found before a failure is shown too. */
	if (out_table_end(&listing.table, 0) != SVC_OK)
		return tool_no_memory();
	if (rc != SVC_OK)
		return tool_registry_failed(rc, &err);
	if (!listing.any)
		fprintf(stderr, "no services in the registry %s\n",
		    svc_registry_name(svc_registry_of(tool->service)));
	return EXIT_OK;
}

/* --------------------------------------------------------------------- get */

/* "Request{name string, marks Mark{...}}" */
static void
put_value(struct svc_buf *out, const struct svc_value *value, bool named)
{
	if (value == NULL) {
		svc_buf_putc(out, '-');
		return;
	}
	if (named && value->name[0] != '\0')
		svc_buf_printf(out, "%s ", value->name);
	svc_buf_puts(out, value->type);
	if (value->n_values == 0)
		return;
	svc_buf_putc(out, '{');
	for (size_t i = 0; i < value->n_values; i++) {
		svc_buf_puts(out, i > 0 ? ", " : "");
		put_value(out, &value->values[i], true);
	}
	svc_buf_putc(out, '}');
}

static void
cell_take(struct out_table *table, enum out_style style, struct svc_buf *text)
{
	if (text->failed != SVC_OK)
		table->failed = true;
	out_cell(table, style, "%s",
	    text->data != NULL ? (const char *)text->data : "");
	svc_buf_fini(text);
}

static void
cell_pairs(struct out_table *table, const struct svc_headers *headers)
{
	struct svc_buf text;

	svc_buf_init(&text, NO_LIMIT);
	out_pairs(&text, headers);
	cell_take(table, OUT_DIM, &text);
}

static void
cell_value(struct out_table *table, const struct svc_value *value)
{
	struct svc_buf text;

	svc_buf_init(&text, NO_LIMIT);
	put_value(&text, value, false);
	cell_take(table, OUT_PLAIN, &text);
}

static svc_err
show(const struct svc_record *record)
{
	struct out_table table = {.columns = 3};
	svc_err rc;

	out_text(OUT_NAME, record->name);
	printf(" version ");
	out_text(OUT_PLAIN, record->version[0] != '\0' ? record->version : "-");
	if (svc_headers_count(record->metadata) > 0) {
		struct svc_buf text;

		svc_buf_init(&text, NO_LIMIT);
		svc_buf_puts(&text, "  ");
		out_pairs(&text, record->metadata);
		if (text.failed == SVC_OK)
			out_text(OUT_DIM, (const char *)text.data);
		svc_buf_fini(&text);
	}
	printf("\n\n");
	out_cell(&table, OUT_HEAD, "NODE");
	out_cell(&table, OUT_HEAD, "ADDRESS");
	out_cell(&table, OUT_HEAD, "METADATA");
	for (size_t i = 0; i < record->n_nodes; i++) {
		out_cell(&table, OUT_PLAIN, "%s", record->nodes[i].id);
		out_cell(&table, OUT_PLAIN, "%s", record->nodes[i].address);
		cell_pairs(&table, record->nodes[i].metadata);
	}
	rc = out_table_end(&table, 2);
	if (record->n_endpoints == 0)
		return rc;
	putchar('\n');
	table.columns = 4;
	out_cell(&table, OUT_HEAD, "ENDPOINT");
	out_cell(&table, OUT_HEAD, "REQUEST");
	out_cell(&table, OUT_HEAD, "RESPONSE");
	out_cell(&table, OUT_HEAD, "METADATA");
	for (size_t i = 0; i < record->n_endpoints; i++) {
		out_cell(&table, OUT_PLAIN, "%s", record->endpoints[i].name);
		cell_value(&table, record->endpoints[i].request);
		cell_value(&table, record->endpoints[i].response);
		cell_pairs(&table, record->endpoints[i].metadata);
	}
	return rc == SVC_OK ? out_table_end(&table, 2) : rc;
}

static void
put_record(struct svc_buf *out, const struct svc_record *record)
{
	char *text = svc_record_encode(record);

	if (text == NULL)
		out->failed = SVC_E_NOMEM;
	else
		svc_buf_puts(out, text);
	svc_mem_free(text);
}

int
run_get(struct tool *tool)
{
	struct svc_record_list list = {0};
	struct svc_error err = {.text = ""};
	struct svc_buf line;
	int status = EXIT_OK;
	svc_err rc;

	rc = svc_registry_lookup(
	    svc_registry_of(tool->service), tool->words[0], &list, &err);
	if (rc == SVC_E_NOT_FOUND)
		svc_error_set(
		    &err, rc, "service not found: %s", tool->words[0]);
	if (rc != SVC_OK) {
		svc_record_list_fini(&list);
		tool_registry_failed(rc, &err);
		return svc_exit_status(rc);
	}
	if (tool->json) {
		svc_buf_init(&line, NO_LIMIT);
		svc_buf_putc(&line, '[');
		for (size_t i = 0; i < list.n_records; i++) {
			svc_buf_puts(&line, i > 0 ? "," : "");
			put_record(&line, list.records[i]);
		}
		svc_buf_putc(&line, ']');
		status = tool_print_line(&line);
	} else {
		for (size_t i = 0; rc == SVC_OK && i < list.n_records; i++) {
			if (i > 0)
				putchar('\n');
			rc = show(list.records[i]);
		}
		if (rc != SVC_OK)
			status = tool_no_memory();
	}
	svc_record_list_fini(&list);
	return status;
}

/* ------------------------------------------------------------------- watch */

struct watching {
	const struct tool *tool;
	pthread_t waiter; /* the thread that waits for a signal */
	int64_t left;
	_Atomic int status;
};

static void
print_change(struct watching *watching, svc_change change,
    const struct svc_record *record)
{
	static const char *const names[] = {
	    "created", "updated", "removed", "synced"};
	static const enum out_style styles[] = {
	    OUT_GOOD, OUT_PLAIN, OUT_BAD, OUT_DIM};
	struct svc_buf line;
	char word[16];
	int status = EXIT_OK;

	if (watching->tool->json) {
		svc_buf_init(&line, NO_LIMIT);
		svc_buf_printf(&line, "{\"change\":\"%s\"", names[change]);
		if (record != NULL) {
			svc_buf_puts(&line, ",\"service\":");
			put_record(&line, record);
		}
		svc_buf_putc(&line, '}');
		status = tool_print_line(&line);
	} else if (record != NULL) {
		snprintf(word, sizeof(word), "%-8s", names[change]);
		out_text(styles[change], word);
		out_text(OUT_NAME, record->name);
		putchar(' ');
		out_text(OUT_PLAIN, record->version);
		putchar(' ');
		out_text(OUT_PLAIN, record->nodes[0].id);
		putchar(' ');
		out_text(OUT_PLAIN, record->nodes[0].address);
		putchar('\n');
		if (!out_flush()) {
			out_error(
			    SVC_E_INTERNAL, "cannot write to standard output");
			status = EXIT_FAILED;
		}
	}
	if (status != EXIT_OK) {
		atomic_store(&watching->status, status);
		pthread_kill(watching->waiter, SIGUSR1);
	}
}

/* One at a time. */
static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct watching *watching = arg;

	if (atomic_load(&watching->status) != EXIT_OK || watching->left == 0)
		return;
	if (record != NULL &&
	    (record->n_nodes == 0 || is_tool(&record->nodes[0])))
		return;
	print_change(watching, change, record);
	if (change != SVC_SYNCED && watching->left > 0 && --watching->left == 0)
		pthread_kill(watching->waiter, SIGUSR1);
}

int
run_watch(struct tool *tool)
{
	struct watching watching = {
	    .tool = tool,
	    .waiter = pthread_self(),
	    .left = tool->count > 0 ? tool->count : -1,
	};
	struct svc_error err = {.text = ""};
	struct svc_watch *watch = NULL;
	sigset_t ends;
	int number;
	svc_err rc;

	/* SIGUSR1 is how the callback says that it is enough. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	rc = svc_registry_watch(svc_registry_of(tool->service),
	    tool->n_words > 0 ? tool->words[0] : NULL, on_change, &watching,
	    &watch, &err);
	if (rc != SVC_OK) {
		tool_registry_failed(rc, &err);
		return svc_exit_status(rc);
	}
	sigwait(&ends, &number);
	svc_registry_unwatch(watch);
	return atomic_load(&watching.status);
}
