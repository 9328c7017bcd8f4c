/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_E2E_RUN_TOOL_H
#define SVC_E2E_RUN_TOOL_H

/* Runs the command line tool as its users do, for tests. */

#include <sys/types.h>

#include <svc/buf.h>

/* The framework's defaults leave mdns's cache and a busy machine ample time;
 * a test that reaches this has failed. */
#define LIMIT_MS 30000

struct program {
	pid_t pid;
	int fds[2]; /* what it writes to standard output and error */
	struct svc_buf text[2];
};

/* The flags that say where everybody meets; "" when there are none. */
extern char where[2][64];

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

struct program start_tool(const char *input, const char *const words[]);
/* What it has printed so far: to standard output for 0, error for 1. */
const char *text_of(const struct program *p, int which);
/* Reads until `text` is there, or, with NULL, until both are closed. */
void read_until(struct program *p, int which, const char *text);
/* Waits for the end and compares the exit status. */
void end_tool(struct program *p, int status);
void free_tool(struct program *p);

/* Runs it; `out` and `err` are what it must print, NULL for anything. */
void expect(const char *const words[], const char *input, int status,
    const char *out, const char *err);
/* The same with parts of what it must print. */
void expect_part(
    const char *const words[], int status, const char *out, const char *err);

#endif
