/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUL_FOLLOW_H
#define SVC_CONSUL_FOLLOW_H

#include "client.h"

/**
 * A question that is asked for ever: consul answers at once the first time, and
 * after that as soon as the answer has changed ("blocking query"). It keeps to
 * the rules of consul's documentation: an index that goes back, or is 0 or
 * missing, answers that come one upon the other, servers that hold an answer
 * back longer than was asked. An agent that breaks off, refuses or stays silent
 * is left for the next one.
 *
 * It has a thread of its own, which runs all of these.
 */
struct follow;

struct follow_ops {
	/** What is known may be out of date from now on. May come repeatedly.
	 */
	void (*lost)(void *arg);
	/** A whole answer. fresh: it has nothing to do with those before, since
	 * it is the first, or the first after `lost`. An error counts as a
	 * break. */
	svc_err (*answer)(const struct svc_buf *answer, bool fresh, void *arg,
	    struct svc_error *err);
};

/**
 * path  with a '?' in it; borrowed for the call, as is `what`
 * what  for the log, "service student"
 *
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED
 */
svc_err follow_start(struct consul *consul, const char *path, const char *what,
    const struct follow_ops *ops, void *arg, struct follow **ret_follow,
    struct svc_error *err);
/** No call runs or comes after this returns. NULL is fine. Not from a call. */
void follow_stop(struct follow *follow);

#endif
