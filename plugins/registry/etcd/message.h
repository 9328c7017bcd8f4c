/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_MESSAGE_H
#define SVC_ETCD_MESSAGE_H

/* What the JSON gateway of etcd's v3 API says: bytes are base64, numbers of 64
 * bits are texts, and what is 0, false or empty is left out. All of it comes
 * from outside; a missing or wrong part reads as 0, NULL or false. */

#include <svc/buf.h>

#include <cjson/cJSON.h>

const cJSON *message_get(const cJSON *object, const char *name);
int64_t message_int(const cJSON *object, const char *name);
bool message_true(const cJSON *object, const char *name);
/** header.revision of an answer. */
int64_t message_revision(const cJSON *answer);

/** Appends the base64 of `data` as a JSON string. */
void message_put_bytes(struct svc_buf *body, const void *data, size_t len);
/** The bytes of a member with a NUL behind them, to be freed with svc_mem_free.
 * Errors: SVC_E_INVAL (it is no base64), SVC_E_NOMEM */
svc_err message_bytes(
    const cJSON *object, const char *name, char **ret_bytes, size_t *ret_len);

/**
 * Whether an answer is an error, and of which kind: {"error", "message",
 * "code"} with gRPC's codes, or {"error": {"message", "grpc_code"}} within a
 * stream. SVC_OK when it is none.
 *
 * status    of HTTP
 * json      may be NULL: what does not know the gateway answers in plain text
 * ret_text  what was said, quoted, at least 120 bytes
 *
 * SVC_E_UNAVAILABLE means that another server may do better, and
 * SVC_E_UNAUTHENTICATED that another token may.
 */
svc_err message_error(int status, const cJSON *json, const void *body,
    size_t len, char *ret_text, size_t text_size);
/** SVC_E_* of an error whose text says that users are switched off. */
#define MESSAGE_NO_USERS SVC_E_PRECONDITION

/** Seconds that a lease has still to live, of an answer to a keepalive; 0: it
 * is not known. */
int64_t message_keepalive_ttl(const cJSON *answer);

/** One line of a watch. */
struct message_watch {
	cJSON *json; /* owns what is pointed to */
	int64_t id;  /* -1: of no watch, or of one that was refused */
	bool created, canceled;
	bool compacted;        /* canceled, since its history is gone */
	int64_t revision;      /* header.revision */
	const cJSON *events;   /* NULL: none */
	int64_t last_revision; /* of its events */
};
/** To be ended with message_watch_fini, whatever comes of it.
 * Errors: SVC_E_INVAL (it is none) */
svc_err message_watch_read(
    const char *text, size_t len, struct message_watch *ret_watch);
void message_watch_fini(struct message_watch *watch);

#endif
