/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_LOG_H
#define SVC_LOG_H

#include <svc/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The structured log. One per process; without a sink nothing is written.
 * Each line has a level, a short stable id ("registry.lost") by which it can
 * be searched, and a text. No payloads and no credentials; text that came
 * from outside is quoted and cut by svc_log_quote. Threads: any.
 */
typedef enum svc_log_level {
	SVC_LOG_TRACE,
	SVC_LOG_DEBUG,
	SVC_LOG_INFO,
	SVC_LOG_WARN,
	SVC_LOG_ERROR,
	SVC_LOG_OFF,
} svc_log_level;

struct svc_log_line {
	svc_log_level level;
	int64_t unix_ms;
	const char *id;
	const char *text;
};
/** Lives only for the call; called under no lock, from any thread. */
typedef void (*svc_log_sink)(const struct svc_log_line *line, void *arg);

/** Where lines go; NULL for nowhere (the state at start). A line that is under
 * way on another thread may still reach the former sink. */
SVC_API void svc_log_set_sink(svc_log_sink sink, void *arg);
/** The same, but a sink that is there already stays. */
SVC_API void svc_log_default_sink(svc_log_sink sink, void *arg);
/** Lines below the level cost one comparison. INFO at start. */
SVC_API void svc_log_set_level(svc_log_level level);
SVC_API bool svc_log_enabled(svc_log_level level);
/** "trace" "debug" "info" "warn" "error" "off"; SVC_E_INVAL for another. */
SVC_API svc_err svc_log_level_parse(const char *text, svc_log_level *ret_level);

/** Ready sinks for standard error: text (coloured on a terminal unless
 * NO_COLOR is set), and one JSON object a line with the keys time (RFC 3339),
 * level, id, text. A line is one write(2). */
SVC_API void svc_log_to_text(const struct svc_log_line *line, void *arg);
SVC_API void svc_log_to_json(const struct svc_log_line *line, void *arg);

/** Write one line, if its level is enabled: a short stable id and a text. */
SVC_API SVC_COLD void svc_log(svc_log_level level, const char *id,
    const char *format, ...) SVC_PRINTF(3, 4);

#define SVC_LOG_BURST 5
/** Of one kind of line; zero at start, and usually static. Private. */
struct svc_log_limit {
	int64_t second;
	unsigned written, left_out;
};
/** For lines that a stranger can cause as often as he likes: of those of one
 * limit SVC_LOG_BURST are written in a second. How many were left out says one
 * line, before the next of a later second. */
SVC_API SVC_COLD void svc_log_limited(struct svc_log_limit *limit,
    svc_log_level level, const char *id, const char *format, ...)
    SVC_PRINTF(4, 5);

/** `text` (at most `len` bytes, and up to a zero byte) in double quotes, with
 * control and non-UTF-8 bytes escaped and cut to fit `out`; dots behind the
 * quotes say that it was cut. Returns `out`. */
SVC_API const char *svc_log_quote(
    const void *text, size_t len, char *out, size_t out_size);

#ifdef __cplusplus
}
#endif
#endif
