/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FRAME_H
#define SVC_FRAME_H

/* The bytes of svc frames: pure functions. docs/wire.md is their description.
 */

#include <svc/buf.h>
#include <svc/transport.h>

#define FRAME_VERSION 1
#define HELLO_SIZE 16
#define FRAME_SIZE 16
#define FRAME_MAX_HEAD 65535

enum frame_type {
	FRAME_PART = 1,
	FRAME_RESET = 2,
	FRAME_DRAIN = 3,
	FRAME_PING = 4,
	FRAME_PONG = 5,
};
#define FRAME_NOT_RUN 8u /* flag of RESET */

struct hello {
	uint8_t version, oldest;
	uint32_t max_message;
	uint32_t max_streams;
};
void hello_encode(const struct hello *hello, uint8_t out[HELLO_SIZE]);
/* Errors: SVC_E_INVAL (not svc), SVC_E_UNIMPLEMENTED (no common version) */
svc_err hello_decode(
    const uint8_t *data, struct hello *ret_hello, struct svc_error *err);

struct frame {
	uint32_t length; /* of head and body */
	uint8_t type;
	uint8_t flags;
	uint16_t head;
	uint32_t stream;
	uint32_t value;
};
void frame_decode(const uint8_t *data, struct frame *ret_frame);
/* Appends a frame whose head is empty. */
svc_err frame_encode(struct svc_buf *out, const struct frame *frame,
    const void *body, size_t len);

/* Appends a whole PART frame. Errors: SVC_E_EXHAUSTED when the head is larger
 * than max_head, or the buffer is full; SVC_E_NOMEM. Nothing is left then. */
svc_err part_encode(struct svc_buf *out, uint32_t stream, bool request,
    const struct svc_part *part, size_t max_head, struct svc_error *err);
/* Points `ret_part` into the frame's bytes; headers are made only when there
 * are some, and are the caller's to destroy. Errors: SVC_E_INVAL, SVC_E_NOMEM
 */
svc_err part_decode(const struct frame *frame, bool request,
    const uint8_t *payload, struct svc_part *ret_part,
    struct svc_headers **ret_headers, struct svc_error *err);

#endif
