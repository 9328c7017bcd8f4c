/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TOOL_H
#define SVC_TOOL_H

#include <svc/svc.h>

/** Node metadata that marks a node of this tool: it is not listed. */
#define TOOL_MARK "svc_tool"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/** What a command works with. */
struct tool {
	struct svc_service *service; /* after svc_init */
	char **words;                /* those after the command */
	int n_words;
	/* The flags of the commands. */
	bool json;
	struct svc_headers *headers;
	int64_t timeout_ms; /* 0: not given */
	int64_t count;      /* 0: no end */
	char *queue;
	/** Why svc_init failed, for run_doctor alone; else NULL. */
	const char *unfit;
};

/** The body from the word at `at`: "-" reads standard input, no word is `{}`.
 * It has been checked to be JSON. To be freed with svc_mem_free. Prints why
 * not and returns NULL with the exit status in *ret_status. */
char *tool_body(
    const struct tool *tool, int at, size_t *ret_len, int *ret_status);
/** Prints the failure and returns the exit status. */
int tool_failed(svc_err code, const struct svc_error *err);
/** The same when the registry was asked, and where to look further. */
int tool_registry_failed(svc_err code, const struct svc_error *err);
int tool_no_memory(void);
/** Prints the line and frees it. */
int tool_print_line(struct svc_buf *line);
/** Prints what a call or stream answered; returns the exit status. */
int tool_print_message(
    const struct tool *tool, const struct svc_message *message);
/** Whether the first words can be a service and an endpoint; prints why not. */
bool tool_names_fit(const struct tool *tool);
/** What the flags say of a call, with `err` for its detail. To be freed with
 * svc_mem_free; NULL when memory ran out. */
struct svc_option *tool_call_options(
    const struct tool *tool, struct svc_error *err);
/** Prints which endpoints there are, when this one is not among them. */
bool tool_explain_endpoint(
    const struct tool *tool, const char *service, const char *endpoint);

int run_list(struct tool *tool);
int run_get(struct tool *tool);
int run_watch(struct tool *tool);
int run_health(struct tool *tool);
int run_doctor(struct tool *tool);
int run_call(struct tool *tool);
int run_stream(struct tool *tool);
int run_publish(struct tool *tool);
int run_subscribe(struct tool *tool);

#endif
