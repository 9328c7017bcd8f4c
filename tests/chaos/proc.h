/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CHAOS_PROC_H
#define SVC_CHAOS_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** Milliseconds of CLOCK_MONOTONIC, the same in all processes of a machine.
 * The suite lives in real time, whatever clock the code under test has. */
int64_t real_ms(void);

/** A child process: what it is told goes to its standard input, what it says
 * is read line by line. It dies with the thread that started it. */
struct proc {
	pid_t pid; /* 0: not running */
	int in, out;
	size_t len;
	char text[8192]; /* read, and no whole line yet */
};

struct proc_how {
	const char *const *argv; /* ends with NULL; argv[0] is a path or is
				  * looked for in PATH */
	const char *log;         /* standard error is appended to this file */
	bool out_to_log;         /* standard output as well: no lines then */
	int gid;                 /* 0: that of the caller */
	const char *const *env;  /* "NAME=VALUE", ends with NULL; may be NULL */
};

bool proc_start(struct proc *proc, const struct proc_how *how);
/** The next whole line without its end, if there is one now. */
bool proc_line(struct proc *proc, char *line, size_t size);
void proc_tell(const struct proc *proc, const char *line);
/** Stopped when it returns; it stays so until thawed. */
void proc_freeze(const struct proc *proc);
void proc_thaw(const struct proc *proc);
/** kill -9, and wait for its end. Nothing when it does not run. */
void proc_kill(struct proc *proc);
/** SIGTERM, and wait until it has ended; after `limit_ms` it is killed and -1
 * returned, else its exit status. What it said last can still be read. */
int proc_end(struct proc *proc, int64_t limit_ms);
/** Close the pipes of one that has ended. */
void proc_close(struct proc *proc);

#endif
