/* SPDX-License-Identifier: Apache-2.0 */
/* nfq_delay QUEUE DELAY_MS [JITTER_MS [LOSS_PERCENT]]
 *
 * Holds every packet that a firewall rule sends to the NFQUEUE for DELAY_MS
 * plus up to JITTER_MS, which reorders them, and drops LOSS_PERCENT. It does
 * what tc netem does, on kernels that have no netem. Prints "ready" when it is
 * bound; ends when it is killed. */
#include <arpa/inet.h>
#include <errno.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define HELD_MAX 65536

static struct {
	uint32_t id;
	int64_t due_us;
} held[HELD_MAX];
static size_t n_held;
static long delay_ms, jitter_ms, loss_percent;

static int64_t
now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int
on_packet(struct nfq_q_handle *queue, struct nfgenmsg *message,
    struct nfq_data *data, void *arg)
{
	(void)message;
	(void)arg;
	struct nfqnl_msg_packet_hdr *head = nfq_get_msg_packet_hdr(data);
	if (head == NULL)
		return 0;
	uint32_t id = ntohl(head->packet_id);
	if (n_held == HELD_MAX || random() % 100 < loss_percent)
		return nfq_set_verdict(queue, id, NF_DROP, 0, NULL);
	held[n_held].id = id;
	held[n_held].due_us =
	    now_us() + delay_ms * 1000 +
	    (jitter_ms > 0 ? random() % (jitter_ms * 1000) : 0);
	n_held++;
	return 0;
}

/* Lets go what is due, in the order it came. Returns the milliseconds until
 * the next is, or -1 when nothing is held. */
static int
release(struct nfq_q_handle *queue)
{
	int64_t now = now_us();
	int64_t next_us = -1;
	size_t kept = 0;
	for (size_t i = 0; i < n_held; i++) {
		if (held[i].due_us <= now) {
			nfq_set_verdict(queue, held[i].id, NF_ACCEPT, 0, NULL);
			continue;
		}
		if (next_us < 0 || held[i].due_us < next_us)
			next_us = held[i].due_us;
		held[kept++] = held[i];
	}
	n_held = kept;
	return next_us < 0 ? -1 : (int)((next_us - now + 999) / 1000);
}

/* A whole number from 0 to `max`; ends the program on anything else. */
static long
number(const char *text, const char *what, long max)
{
	char *end;
	errno = 0;
	long n = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || n < 0 || n > max) {
		fprintf(
		    stderr, "%s is '%s', must be 0 to %ld\n", what, text, max);
		exit(2);
	}
	return n;
}

int
main(int argc, char **argv)
{
	static char buf[70000] __attribute__((aligned(8)));
	if (argc < 3 || argc > 5) {
		fprintf(stderr,
		    "usage: %s QUEUE DELAY_MS [JITTER_MS [LOSS_PERCENT]]\n",
		    argv[0]);
		return 2;
	}
	uint16_t id = (uint16_t)number(argv[1], "QUEUE", UINT16_MAX);
	delay_ms = number(argv[2], "DELAY_MS", 60000);
	jitter_ms = argc > 3 ? number(argv[3], "JITTER_MS", 60000) : 0;
	loss_percent = argc > 4 ? number(argv[4], "LOSS_PERCENT", 100) : 0;
	srandom((unsigned)now_us());

	struct nfq_handle *handle = nfq_open();
	struct nfq_q_handle *queue = NULL;
	if (handle != NULL)
		queue = nfq_create_queue(handle, id, on_packet, NULL);
	if (queue == NULL) {
		perror("nfqueue");
		return 1;
	}
	nfq_set_mode(queue, NFQNL_COPY_PACKET, 64);
	nfq_set_queue_maxlen(queue, HELD_MAX);
	puts("ready");
	fflush(stdout);

	struct pollfd p = {.fd = nfq_fd(handle), .events = POLLIN};
	for (;;) {
		if (poll(&p, 1, release(queue)) < 0 && errno != EINTR)
			return 1;
		if ((p.revents & POLLIN) == 0)
			continue;
		ssize_t n = recv(p.fd, buf, sizeof(buf), 0);
		if (n > 0)
			nfq_handle_packet(handle, buf, (int)n);
		else if (n < 0 && errno != ENOBUFS && errno != EINTR)
			return 1;
	}
}
