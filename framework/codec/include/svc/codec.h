/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CODEC_H
#define SVC_CODEC_H

#include <svc/buf.h>
#include <svc/message.h>
#include <svc/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

/* protobuf-c's types, which describe messages for every codec. Include
 * <protobuf-c/protobuf-c.h> to look inside. */
struct ProtobufCMessage;
struct ProtobufCMessageDescriptor;

#define SVC_CODEC_ABI SVC_ABI(3, 1)

/**
 * What a codec plugin provides: static const, never freed. A codec turns the
 * bytes of its content types into a protobuf-c message by its descriptor and
 * back, so the same handler serves every codec.
 *
 * Promises, proved by tests/conformance/codec.c: decode(encode(m)) equals m
 * for every descriptor the codec can carry; whatever bytes are decoded, the
 * result is a whole message or an error and nothing is lost; ops never block.
 * Threads: any, concurrently; there is no state.
 */
struct svc_codec_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;

	/** The content types served, lower case and without parameters, the
	 * preferred one first, ended by NULL. */
	const char *const *content_types;

	/** Append the bytes of `message`.
	 * Errors: SVC_E_INVAL (a message it cannot carry), SVC_E_EXHAUSTED
	 * (the buffer's maximum), SVC_E_NOMEM */
	svc_err (*encode)(const struct ProtobufCMessage *message,
	    struct svc_buf *out, struct svc_error *err);
	/** A new message of this type, to be freed with svc_message_destroy
	 * (it is allocated as protobuf_c_message_unpack does).
	 * Errors: SVC_E_INVAL with the place and what was expected, SVC_E_NOMEM
	 */
	svc_err (*decode)(const struct ProtobufCMessageDescriptor *descriptor,
	    const void *data, size_t len, struct ProtobufCMessage **ret_message,
	    struct svc_error *err);
	/** Whether the bytes are well formed for this content type, without a
	 * descriptor. Optional: without it everything is.
	 * Errors: SVC_E_INVAL with the place */
	svc_err (*check)(const void *data, size_t len, struct svc_error *err);
};

extern SVC_API const struct svc_interface svc_codec_interface;
/** application/octet-stream; messages with a single field of type bytes. */
extern SVC_API const struct svc_codec_ops svc_codec_bytes;
/** text/plain in UTF-8; messages with a single field of type string. */
extern SVC_API const struct svc_codec_ops svc_codec_text;

/** Frees what decode made. NULL is fine. */
SVC_API void svc_message_destroy(struct ProtobufCMessage *message);

/** How many bytes of `text` are whole UTF-8 characters (RFC 3629: no overlong
 * forms, no surrogates); `len` when all of them are. */
SVC_API size_t svc_utf8_span(const void *text, size_t len);

/**
 * The codecs of a service by content type. Parameters ("; charset=utf-8") and
 * ASCII case of a content type do not matter.
 */
struct svc_codecs;
/** All codecs that can be found: embedded, added, and every module. A module
 * that cannot be loaded is logged and left out.
 * Errors: SVC_E_NOMEM */
SVC_API svc_err svc_codecs_create(
    struct svc_codecs **ret_codecs, struct svc_error *err);
SVC_API void svc_codecs_destroy(struct svc_codecs *codecs);
/** Errors: SVC_E_UNIMPLEMENTED (the text lists the types there are).
 * Threads: any. */
SVC_API svc_err svc_codecs_find(const struct svc_codecs *codecs,
    const char *content_type, const struct svc_codec_ops **ret_codec,
    struct svc_error *err);

#ifdef __cplusplus
}
#endif
#endif
