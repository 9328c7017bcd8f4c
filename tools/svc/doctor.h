/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TOOL_DOCTOR_H
#define SVC_TOOL_DOCTOR_H

#include "tool.h"

enum doctor_state {
	DOCTOR_OK,
	DOCTOR_WARNING,
	DOCTOR_FAILED, /* makes the exit status 1 */
	DOCTOR_SKIPPED,
};

/** One examination. Threads: of one only. */
struct doctor {
	struct tool *tool;
	const struct svc_options *options;
	/* Of the service, which gives none away any more once its start failed.
	 */
	struct svc_broker *broker;
	int64_t limit_ms; /* that one wait may take */
	struct svc_buf json;
	int n_checks, n_warnings, n_failed;
	bool elsewhere; /* the registry is, or reaches, beyond this host */
};

/** Whether a signal asks to end: then no further check begins. */
bool doctor_interrupted(void);
/** Prints one check, or keeps it for the JSON object. `ms` is how long it took,
 * negative for nothing; `advice` is what to do, NULL for nothing. */
void doctor_say(struct doctor *doctor, enum doctor_state state,
    const char *what, double ms, const char *advice, const char *format, ...)
    SVC_PRINTF(6, 7);
double doctor_since_ms(int64_t from_us);
/** Dials each address of a list for `plugin`, one check each; `room` is
 * "registry" or "broker". Of a registry that speaks HTTP the clock too. False
 * when none can be reached. */
bool doctor_addresses(struct doctor *doctor, const char *room,
    const char *plugin, const char *list);
/** Whether HOST:PORT can be dialled, and why not. */
bool doctor_dial(const char *address, char *why, size_t size, double *ret_ms);
/** Looks at the links that the registry mdns uses, and hears itself on them. */
void doctor_mdns(struct doctor *doctor);

#endif
