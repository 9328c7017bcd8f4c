/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_FRAME_H
#define SVC_FRAME_H

/* The bytes of svc frames: pure functions. docs/wire.md is their description.
 */

#include <svc/buf.h>
#include <svc/mux.h>

#define FRAME_VERSION 1
#define HELLO_SIZE 32  /* of ours; the least that a peer's may have */
#define HELLO_MAX 1024 /* a later version's may be as long */
#define HELLO_MIN_WINDOW 256
#define PIECE_MIN 16384u /* that every peer takes, before its hello is read */
#define PIECE 65536u     /* that we take and send */
#define FRAME_SIZE 16
#define FRAME_MAX_HEAD 65535
#define FRAME_MAX_PAIRS 256 /* of headers, in a head */

enum frame_type {
	FRAME_PART = 1,
	FRAME_RESET = 2,
	FRAME_DRAIN = 3,
	FRAME_PING = 4,
	FRAME_PONG = 5,
	FRAME_WINDOW = 6,
};
#define FRAME_NOT_RUN 8u /* flag of RESET */
#define FRAME_MORE 8u    /* flag of PART: the message goes on */
/* Flag of WINDOW: the rest of the stream's message needs no credit of the
 * connection. */
#define FRAME_GRANT 1u

struct hello {
	uint8_t version, oldest;
	uint16_t size; /* of the whole hello; what is not known is skipped */
	uint32_t max_message;
	uint32_t max_streams;
	uint32_t stream_window, conn_window;
	uint32_t piece;
	uint32_t features;
};
void hello_encode(const struct hello *hello, uint8_t out[HELLO_SIZE]);
/* `data` has HELLO_SIZE bytes.
 * Errors: SVC_E_INVAL (not svc), SVC_E_UNIMPLEMENTED (no common version) */
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
/* Writes FRAME_SIZE bytes. */
void frame_put(uint8_t *out, const struct frame *frame);

/* A part that takes several frames has its head in two: with HEADERS in the
 * first frame, with END in the last. `flags` chooses: those of the part that
 * its frame has. */
size_t part_head_size(
    const struct svc_part *part, unsigned flags, bool request);
/* Writes that many bytes. */
void part_head_put(
    uint8_t *out, const struct svc_part *part, unsigned flags, bool request);
uint32_t part_value(const struct svc_part *part, unsigned flags, bool request);
/* Errors: SVC_E_EXHAUSTED */
svc_err part_head_check(size_t head, size_t max_head, struct svc_error *err);

/* Appends a whole PART frame. Errors: SVC_E_EXHAUSTED when the head is larger
 * than max_head, or the buffer is full; SVC_E_NOMEM. Nothing is left then. */
svc_err part_encode(struct svc_buf *out, uint32_t stream, bool request,
    const struct svc_part *part, size_t max_head, struct svc_error *err);
/* Writes the frame of a packed request without headers: FRAME_SIZE bytes, head
 * and message. */
void part_put_packed(
    uint8_t *out, uint32_t stream, const struct svc_part *part);
/* Points `ret_part` into the frame's bytes; headers are made only when there
 * are some, and are the caller's to destroy. Errors: SVC_E_INVAL, SVC_E_NOMEM
 */
svc_err part_decode(const struct frame *frame, bool request,
    const uint8_t *payload, struct svc_part *ret_part,
    struct svc_headers **ret_headers, struct svc_error *err);

/* As part_decode, with what was learned from the one before. */
svc_err part_decode_again(struct svc_mux_memo *memo, const struct frame *frame,
    bool request, const uint8_t *payload, struct svc_part *ret_part,
    struct svc_headers **ret_headers, struct svc_error *err);
/* The same for a good reply whose head and flags are those in the memo, into a
 * part that is PART_NONE or has been one of these; false: it is not one. */
#define PART_NONE ((struct svc_part){.timeout_ms = SVC_FOREVER})
bool part_decode_known(const struct svc_mux_memo *memo,
    const struct frame *frame, const uint8_t *payload, struct svc_part *part);

#endif
