/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STUDENT_SCHOOL_H
#define STUDENT_SCHOOL_H

#include "roster.h"

/** Where enrolments are announced: the header "name" says who, the body is the
 * student as JSON. */
#define SCHOOL_TOPIC "go.micro.srv.message"
/** The header of each reply with the id of the node that gave it. */
#define SCHOOL_NODE_HEADER "Student-Node"

/** What the handlers need; the `arg` of each. */
struct school {
	const char *path; /* --roster */
	struct roster roster;
	struct svc_error why; /* of school_open */
};

/** Adds the flag --roster, reads all flags, and loads the roster. */
svc_err school_open(
    struct school *school, struct svc_service *service, int argc, char *argv[]);
/** Prints why, when `err` is a failure of school_open or of the service, frees
 * both, and returns the exit status. */
int school_close(
    struct school *school, struct svc_service *service, svc_err err);

/** Student.Get: Name to Student. */
svc_err school_get(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg);
/** Student.Enrol: Name to Student, and the event. Enrolling a second time
 * changes nothing and announces the same once more. */
svc_err school_enrol(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg);

/** Student.List: streams every student whose name begins with the Name that
 * opens it; all of them for an empty one. */
svc_err school_list(struct svc_stream *stream, void *arg);
/** Student.Find: each Name that comes is answered by its Student at once, as
 * long as the client likes. */
svc_err school_find(struct svc_stream *stream, void *arg);

/** Adds all of these endpoints. */
svc_err school_serve(struct school *school, struct svc_service *service);

#endif
