/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that says whatever it likes, frame by frame, while streams are open
 * and messages of ours wait for its credit.
 *
 * The first byte chooses the side, and whether there is a loop: without one
 * whoever feeds the mux handles all; with one whole requests and replies are
 * handled on the thread that reads them, as in a transport, and a handler that
 * says it blocks loses the loop to another thread. The second byte says how the
 * bytes are cut. The rest are orders: one byte, then what it needs. Most make a
 * frame that is nearly right, so that the fuzzer gets behind the first checks;
 * one gives raw bytes.
 *
 * `lock` guards the table of streams and what waits for the end of a run. It is
 * held while a stream of the table is used, so that no callback gives it back
 * meanwhile, and not while one is given back, which waits for its callback.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <svc/clock.h>
#include <svc/mux.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_STREAMS 8
#define MANY 80    /* more than the share of one turn */
#define DRIBBLE 64 /* bytes of an order that come one by one */

/* A stream of the table, or one that waits for its cancellation. */
struct holder {
	struct svc_task task;             /* of on_cancel */
	struct svc_stream_handle *stream; /* NULL: not in the table */
	bool armed;                       /* the task may be run */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct holder *holders[64];
static size_t n_open;
static bool ended;    /* nobody looks at the table any more */
static bool freed;    /* by the last reference */
static int cancelled; /* tasks that are still to run */
static struct svc_mux mux;
static struct svc_loop *loop; /* of this run, or NULL */
static bool blocked;          /* the peer does not read */

static void
take_output(struct svc_mux *of)
{
	struct svc_buf out;
	svc_buf_init(&out, SIZE_MAX / 2);
	while (!__atomic_load_n(&blocked, __ATOMIC_RELAXED) &&
	       svc_mux_begin_flush(of, &out))
		svc_mux_end_flush(of, &out, out.len);
	svc_buf_fini(&out);
}

static void
on_free(struct svc_mux *of)
{
	if (of->n_held != 0 || of->loaned != 0 || of->pending != 0)
		abort();
	svc_mux_fini(of);
	pthread_mutex_lock(&lock);
	freed = true;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

static void
on_close(struct svc_mux *of)
{
	(void)of;
}

static const struct svc_mux_ops mux_ops = {
    .flush = take_output, .free = on_free, .close = on_close};

/* ----------------------------------------------------- the table of streams */

static void
on_cancel(struct svc_task *task)
{
	struct holder *holder = (struct holder *)(void *)task;
	pthread_mutex_lock(&lock);
	holder->armed = false;
	if (holder->stream == NULL)
		free(holder);
	cancelled--;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

/* False when it is full, or the run is over. */
static bool
keep(struct svc_stream_handle *stream)
{
	struct holder *holder = calloc(1, sizeof(*holder));
	if (holder == NULL)
		abort();
	holder->stream = stream;
	holder->task.run = on_cancel;
	pthread_mutex_lock(&lock);
	bool room = n_open < sizeof(holders) / sizeof(holders[0]) && !ended;
	if (room)
		holders[n_open++] = holder;
	pthread_mutex_unlock(&lock);
	if (!room)
		free(holder);
	return room;
}

/* With the lock: who takes it gives it back. */
static struct svc_stream_handle *
take(size_t i)
{
	struct holder *holder = holders[i];
	struct svc_stream_handle *stream = holder->stream;
	holders[i] = holders[--n_open];
	holder->stream = NULL;
	if (holder->armed && svc_mux_on_cancel(stream, NULL)) {
		holder->armed = false;
		cancelled--;
	}
	if (!holder->armed)
		free(holder);
	return stream;
}

static bool
take_this(const struct svc_stream_handle *stream)
{
	bool found = false;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < n_open && !found; i++)
		if (holders[i]->stream == stream) {
			take(i);
			found = true;
		}
	pthread_mutex_unlock(&lock);
	return found;
}

/* ------------------------------------------------------------- the holders */

static void
look(const struct svc_part *part)
{
	volatile uint8_t sum = 0;
	for (size_t i = 0; i < part->len; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)part->data)[i]);
	if (part->len > 4096) /* of the limit below */
		abort();
}

static void open_stream(unsigned kind, unsigned flags);

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	look(part);
	if (!(part->flags & SVC_PART_END))
		return;
	/* A caller who is asked back, and calls again meanwhile. */
	if ((part->len & 4) != 0 && take_this(stream))
		svc_mux_release(stream, SVC_E_CANCELLED);
	if (part->len == 8 && !mux.config.server)
		open_stream(0, SVC_PART_END);
	if (part->len == 12)
		svc_will_block();
}

static void
on_messages(
    struct svc_stream_handle *stream, const struct svc_span *messages, size_t n)
{
	(void)stream;
	if (n == 0)
		abort();
	for (size_t i = 0; i < n; i++)
		look(&(struct svc_part){
		    .data = messages[i].data,
		    .len = messages[i].len,
		});
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	if (strlen(end->text) > 4096)
		abort();
	if (end->code == SVC_E_CANCELLED && take_this(stream))
		svc_mux_release(stream, SVC_E_CANCELLED);
}

static void
on_writable(struct svc_stream_handle *stream)
{
	struct svc_part part = {
	    .flags = SVC_PART_MESSAGE, .data = "again", .len = 5};
	svc_mux_send(stream, &part, NULL);
}

static const struct svc_stream_events kinds[3] = {
    {.part = on_part, .closed = on_closed, .writable = on_writable},
    {.part = on_part,
	.closed = on_closed,
	.writable = on_writable,
	.holds = true},
    {.part = on_part,
	.closed = on_closed,
	.writable = on_writable,
	.holds = true,
	.messages = on_messages},
};

/* A handler: what it does follows from the length of the message. */
static void
on_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct svc_part reply = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .headers = first->headers,
	    .data = first->data,
	    .len = first->len,
	};
	(void)arg;
	look(first);
	stream->events = &kinds[first->len % 3];
	switch (first->len / 4 % 8) {
	case 1: /* a short one */
		if (svc_mux_answer(stream, &reply, NULL) == SVC_OK)
			return;
		break;
	case 2: /* it blocks and answers then */
		svc_will_block();
		if (svc_mux_answer(stream, &reply, NULL) == SVC_OK)
			return;
		break;
	case 3:
		svc_mux_send(stream, &reply, NULL);
		break;
	case 4: /* no answer at all */
		svc_will_block();
		break;
	case 5: /* it begins to answer before it is kept */
		reply.flags = SVC_PART_HEADERS | SVC_PART_MESSAGE;
		svc_mux_send(stream, &reply, NULL);
		svc_mux_cancelled(stream);
		if (keep(stream))
			return;
		break;
	case 6: /* its answer is refused */
		reply.len = 5000;
		reply.data = NULL;
		if (svc_mux_answer(stream, &reply, NULL) == SVC_OK)
			abort();
		break;
	default:
		if (keep(stream))
			return;
	}
	svc_mux_release(stream, SVC_E_CANCELLED);
}

static void
open_stream(unsigned kind, unsigned flags)
{
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | flags,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = 5,
	};
	struct svc_stream_handle *stream;
	if (svc_mux_open(&mux, &first, 0, &kinds[kind], NULL, &stream, NULL) ==
		SVC_OK &&
	    !keep(stream))
		svc_mux_release(stream, SVC_E_CANCELLED);
}

/* ------------------------------------------------------------------ orders */

struct input {
	const uint8_t *data;
	size_t left;
};

static uint32_t
number(struct input *in, size_t bytes)
{
	uint32_t value = 0;
	for (; bytes > 0 && in->left > 0; bytes--, in->left--)
		value = value << 8 | *in->data++;
	return value;
}

static void
frame(struct svc_buf *out, uint8_t type, uint8_t flags, uint32_t stream,
    uint32_t value, const void *head, size_t head_len, size_t body)
{
	static const uint8_t bodies[255 * 8];
	uint8_t bytes[16] = {0};
	uint32_t length = (uint32_t)(head_len + body);
	for (int i = 0; i < 4; i++) {
		bytes[i] = (uint8_t)(length >> 8 * i);
		bytes[8 + i] = (uint8_t)(stream >> 8 * i);
		bytes[12 + i] = (uint8_t)(value >> 8 * i);
	}
	bytes[4] = type;
	bytes[5] = flags;
	bytes[6] = (uint8_t)head_len;
	svc_buf_append(out, bytes, sizeof(bytes));
	svc_buf_append(out, head, head_len);
	svc_buf_append(out, bodies, body);
}

static const uint8_t hello[32] = {0xf5, 's', 'v', 'c', 1, 1, 32, 0, 0, 16, 0, 0,
    8, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0};

/* What an order does to a stream of ours. */
static void
use(uint32_t what, struct input *in)
{
	static uint8_t data[9000];
	struct svc_part part = {.flags = SVC_PART_MESSAGE, .data = data};
	uint32_t id = what >> 4;
	size_t credit = 0;
	if ((what & 15) == 9) {
		part.len = number(in, 1) * 20;
	} else if ((what & 15) == 10) {
		part.flags = number(in, 1) & 7;
		part.len = number(in, 2) % sizeof(data);
	} else if ((what & 15) == 12) {
		credit = number(in, 2);
	}
	struct svc_stream_handle *release = NULL;
	pthread_mutex_lock(&lock);
	struct holder *holder = n_open > 0 ? holders[id % n_open] : NULL;
	if (holder == NULL) {
		;
	} else if ((what & 15) == 11) {
		release = take(id % n_open);
	} else if ((what & 15) == 12) {
		svc_mux_credit(holder->stream, credit);
	} else if ((what & 15) == 14) {
		if (loop != NULL && !holder->armed) {
			holder->armed = true;
			cancelled++;
			svc_mux_on_cancel(holder->stream, &holder->task);
		}
	} else if (part.flags != 0) {
		svc_mux_send(holder->stream, &part, NULL);
	}
	pthread_mutex_unlock(&lock);
	if (release != NULL)
		svc_mux_release(release, SVC_E_CANCELLED);
}

/* One order: bytes of the peer, or something done on our side. */
static void
order(struct input *in, struct svc_buf *out, bool server)
{
	static const char texts[] = "\1\0s\0\3\0E.e\0\0\0";
	uint32_t what = number(in, 1), id = what >> 4;
	switch (what & 15) {
	case 0:
		svc_buf_append(out, hello, sizeof(hello));
		break;
	case 1: /* opens, or the first of a reply */
		frame(out, 1, (uint8_t)(number(in, 1) | 1), id, 9,
		    server ? texts : "\0\0\0\0\0\0", server ? sizeof(texts) : 3,
		    number(in, 1) * 4);
		break;
	case 2:
		frame(out, 1, (uint8_t)number(in, 1), id, 0, NULL, 0,
		    number(in, 1) * 8);
		break;
	case 3: /* the end, with a trailer */
		frame(out, 1, 4, id, number(in, 1),
		    server ? "\1\0t\0\1\0v\0" : "\0\0\0\1\0t\0\1\0v\0",
		    server ? 8 : 11, 0);
		break;
	case 4:
		frame(out, 2, (uint8_t)number(in, 1), id, number(in, 1), "why",
		    3, 0);
		out->data[out->len - 13] = 0; /* it has no head */
		break;
	case 5:
		frame(out, 3, 0, number(in, 1), 0, NULL, 0, 0);
		break;
	case 6:
		frame(out, (uint8_t)(4 + id % 2), 0, 0, number(in, 1), NULL, 0,
		    0);
		break;
	case 7:
		frame(out, 6, (uint8_t)number(in, 1), id, number(in, 2), NULL,
		    0, 0);
		break;
	case 8:
		for (uint32_t n = number(in, 1); n > 0 && in->left > 0; n--)
			svc_buf_putc(out, (char)number(in, 1));
		break;
	case 13: /* the peer reads, or not; a caller calls; a listener stops */
		if (id == 0)
			svc_mux_drain(&mux);
		else if (id < 4)
			__atomic_store_n(&blocked, id == 1, __ATOMIC_RELAXED);
		else if (!server)
			open_stream(id % 3, id & SVC_PART_END);
		break;
	case 15: /* many calls at once */
		for (uint32_t n = number(in, 1) % MANY, i = id; n > 0 && server;
		     n--, i++)
			frame(out, 1, 7, i, 9, texts, sizeof(texts),
			    number(in, 1));
		break;
	default:
		use(what, in);
	}
}

/* -------------------------------------------------------------------- a run */

/* What a run knows lies here, for after a take-over another thread goes on. */
static struct run {
	struct svc_source source;
	struct input in;
	struct svc_buf bytes; /* of the peer, of which `given` were handed over
			       * and `at` used */
	size_t given, at;
	uint32_t cut;    /* see next_piece */
	unsigned pieces; /* of this order */
	bool server, begun, feeding, over;
} run;

static void
begin(void)
{
	static const struct svc_transport_ops transport = {.name = "fuzz"};
	struct svc_mux_config config = {.ops = &mux_ops,
	    .transport = &transport,
	    .loop = loop,
	    .limits.max_message = 4096,
	    .limits.max_headers = 512,
	    .limits.max_streams = MAX_STREAMS,
	    .limits.stream_window = 1024,
	    .limits.conn_window = 2048,
	    .server = run.server,
	    .accept = on_accept};
	run.begun = true;
	if (svc_mux_init(&mux, &config, "fuzz") != SVC_OK)
		abort();
	if (loop != NULL)
		svc_mux_attach(&mux);
	for (unsigned i = 0; i < 4 && !run.server; i++)
		open_stream(i % 2, i != 1 ? SVC_PART_END : 0);
}

static void
drop_used(void)
{
	svc_buf_consume(&run.bytes, run.at);
	run.given -= run.at;
	run.at = 0;
}

/* How much of what has come is given to it next. The second byte of the input
 * says where each order's bytes are cut, and the rest is cut in two; or the
 * first of them come one by one. More pieces would show no more, and took most
 * of the time: each is a copy of all that is not used yet. */
static size_t
next_piece(void)
{
	size_t more = run.bytes.len - run.given;
	size_t piece = (more + 1) / 2;
	if (run.cut == 255)
		piece = run.pieces < DRIBBLE ? 1 : more;
	else if (run.pieces == 0)
		piece = more <= 255 ? run.cut : more * run.cut / 255;
	else if (run.pieces > 1)
		piece = more;
	run.pieces++;
	return piece < more ? piece : more;
}

/* Gives it the next piece of what has come. */
static svc_mux_result
feed(void)
{
	struct svc_error err;
	run.given += next_piece();
	run.feeding = run.given < run.bytes.len;
	uint8_t *read = malloc(run.given + 1);
	if (read == NULL)
		abort();
	if (run.given > 0)
		memcpy(read, run.bytes.data, run.given);
	svc_mux_result result =
	    svc_mux_input(&mux, read, run.given, &run.at, &err);
	free(read);
	if (result == SVC_MUX_LOST)
		return result;
	if (svc_mux_need(&mux) == 0)
		abort();
	drop_used();
	return result;
}

/* Goes on until an order is carried out. False when another thread does. */
static bool
play(void)
{
	svc_mux_result result;
	if (!run.feeding) {
		order(&run.in, &run.bytes, run.server);
		run.given = 0;
		run.pieces = 0;
	}
	do {
		result = feed();
		if (result == SVC_MUX_LOST)
			return false;
		if (result == SVC_MUX_YIELD) { /* the peer reads at last */
			__atomic_store_n(&blocked, false, __ATOMIC_RELAXED);
			take_output(&mux);
		}
	} while (
	    run.feeding || result == SVC_MUX_SHARE || result == SVC_MUX_YIELD);
	run.over = result != SVC_MUX_OK || svc_mux_failed(&mux);
	return true;
}

/* False as above. */
static bool
close_streams(void)
{
	run.over = true;
	__atomic_store_n(&blocked, false, __ATOMIC_RELAXED);
	take_output(&mux);
	svc_mux_fail(&mux, SVC_E_UNAVAILABLE, "the end");
	return svc_mux_close_streams(&mux) != SVC_MUX_LOST;
}

static void
finish(void)
{
	if (loop != NULL)
		svc_mux_detach(&mux);
	for (bool more = true; more;) {
		struct svc_stream_handle *stream = NULL;
		pthread_mutex_lock(&lock);
		ended = true;
		if (n_open > 0)
			stream = take(n_open - 1);
		pthread_mutex_unlock(&lock);
		more = stream != NULL;
		if (more)
			svc_mux_release(stream, SVC_E_CANCELLED);
	}
	svc_mux_unref(&mux);
}

/* On the loop it gives way after each order, to what that has posted. */
static void
ready(struct svc_source *source, unsigned events)
{
	if ((events & SVC_IO_RESUME) != 0) {
		drop_used();
		run.feeding = true;
		take_output(&mux);
	}
	if (!run.begun)
		begin();
	while (!run.over && (run.feeding || run.in.left > 0)) {
		if (!play())
			return;
		if (loop != NULL) {
			svc_source_kick(source);
			return;
		}
	}
	if (close_streams())
		finish();
}

static struct svc_executor *executor;

static void
end_executor(void)
{
	svc_buf_fini(&run.bytes);
	svc_executor_destroy(executor);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svc_executor_config config = {.loops = 1, .max_threads = 8};
	if (executor == NULL) {
		if (svc_executor_create(&config, &executor, NULL) != SVC_OK ||
		    atexit(end_executor) != 0)
			abort();
		svc_buf_init(&run.bytes, 1 << 20);
		run.source.fd = -1;
		run.source.ready = ready;
		if (svc_source_attach(svc_executor_loop(executor), &run.source,
			0, NULL) != SVC_OK)
			abort();
	}
	struct input in = {.data = data, .left = size};
	uint32_t how = number(&in, 1);
	loop = (how & 2) != 0 ? run.source.loop : NULL;
	run.server = (how & 1) != 0;
	run.cut = number(&in, 1);
	run.in = in;
	run.begun = run.feeding = run.over = ended = freed = blocked = false;
	run.given = run.at = 0;
	svc_buf_clear(&run.bytes);
	if (loop == NULL) {
		ready(&run.source, 0);
		if (!freed)
			abort();
		return 0;
	}
	svc_source_kick(&run.source);
	/* Of the mux nothing is used by then, on whatever thread. */
	pthread_mutex_lock(&lock);
	while (!freed || cancelled > 0)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	return 0;
}
