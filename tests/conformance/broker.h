/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_CONFORMANCE_BROKER_H
#define SVC_TEST_CONFORMANCE_BROKER_H

#include <svc/broker.h>

/**
 * The promises of <svc/broker.h>, run against one plugin. Each test makes its
 * own participants: services that would live in processes of their own.
 */
struct svc_conformance_broker {
	/** Looked up by this name, unless `ops` is given. */
	const char *plugin;
	const struct svc_broker_ops *ops;
	void *arg;
	/** Fills in address, client_id and host of participant `who` (from 0);
	 * the rest is set already. What it points to lives until `left`. */
	void (*configure)(
	    void *arg, unsigned who, struct svc_broker_config *config);
	/** Participant `who` was made, or is about to be destroyed. For hosts
	 * that carry events between them. Optional. */
	void (*joined)(void *arg, unsigned who, struct svc_broker *broker);
	void (*left)(void *arg, unsigned who);
	/** Ends the server as a crash would, and starts it again with its data.
	 * Optional, for brokers that have one. */
	void (*kill_server)(void *arg);
	void (*start_server)(void *arg);
	/** Publishes these raw bytes past svc. Optional. */
	void (*inject)(
	    void *arg, const char *topic, const void *data, size_t len);
	/** Queues are not possible here: subscribing to one must be
	 * SVC_E_UNIMPLEMENTED. */
	bool no_queues;
	/** The participants of a queue take turns, however fast they are. */
	bool deals_out;
	/** The server forgets queues when it crashes, so that they have nothing
	 * until their members have subscribed again. */
	bool forgets_queues;
};

/** Runs all of it; the number of failed tests. */
int svc_conformance_broker(const struct svc_conformance_broker *setup);

#endif
