/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_CODEC_H
#define SVC_CONFORMANCE_CODEC_H

#include <svc/codec.h>

/* Bytes that a codec must refuse, and a piece of what it says then. */
struct svc_conformance_bad {
	const struct ProtobufCMessageDescriptor *descriptor; /* NULL ends */
	const void *data;
	size_t len;
	const char *says;
};

struct svc_conformance_codec {
	const char *codec; /* as in the catalogue */
	/* Messages it can carry, ended by NULL. NULL: it carries every one,
	 * so all of tests/conformance/codec_types*.proto are tried, filled by
	 * hand and at random. */
	const struct ProtobufCMessage *const *samples;
	const struct svc_conformance_bad *bad;
};

/* Runs the promises of svc/codec.h as a cmocka group; the number that failed.
 */
int svc_conformance_codec(const struct svc_conformance_codec *setup);

#endif
