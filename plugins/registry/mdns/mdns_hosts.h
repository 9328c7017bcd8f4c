/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_HOSTS_H
#define MDNS_HOSTS_H

#include <stdbool.h>
#include <sys/types.h>

/**
 * Two hosts for a test: this process moves into a network namespace of its own,
 * with an interface v1, and a second namespace has v2 at the other end of the
 * cable. Nothing of them appears in the machine's own network, and they end
 * with this process.
 */
enum host { HERE, THERE };

/** Once, before any thread is started. False when the machine does not permit
 * it, or lacks the program ip; then hosts_lack says so. */
bool hosts_start(void);
const char *hosts_lack(void);
/** The namespace of a host, to be entered with setns. */
int hosts_network(enum host host);

/** Lays the cable, both ends up, with 10.99.0.1 here and 10.99.0.2 there when
 * `v4`; IPv6 link-local addresses come by themselves. */
void hosts_connect(bool v4);
/** The same, and waits until the IPv6 addresses can be used. */
void hosts_connect_settled(bool v4);
/** Teardown of a test: takes the cable away, if there is one. */
int hosts_cut(void **state);
/** Takes it away, with its interfaces. */
void hosts_disconnect(void);

/** Runs a shell command on a host; the test fails when it does. */
void host_run(enum host host, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** The same, and gives its output, to be freed; NULL when it failed. */
char *host_output(enum host host, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** Starts one that runs until host_end, or until this process ends. */
pid_t host_start(enum host host, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void host_end(pid_t pid);

/** Skips the test, with a reason; <cmocka.h> comes before. */
#define LACKING(what)                        \
	do {                                 \
		print_message("%s\n", what); \
		skip();                      \
	} while (0)

#endif
