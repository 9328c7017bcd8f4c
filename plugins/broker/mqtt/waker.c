/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paho's receiving thread looks at new sockets, and at what became of them,
 * only when one that it knows has something to say, or a second has passed. To
 * make it look there is a client, the guard, whose server is this file:
 * whatever that sends is such a thing.
 *
 * The guard also keeps paho's threads alive: ending them with the last client
 * would take a second, and races with making the next one.
 *
 * Lock: guards the sockets and whether the guard was answered. Paho is called
 * with it held, which calls nobody back for the guard.
 */
#include "mqtt.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* The guard waits so long for an answer, which it gets when paho is to be woken
 * for the second time. */
#define PATIENCE_S 1000000

static pthread_once_t once = PTHREAD_ONCE_INIT;
static MQTTAsync guard;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int listener = -1, connection = -1;
static bool answered;

static void
make_guard(void)
{
	MQTTAsync_init_options options = MQTTAsync_init_options_initializer;
	MQTTAsync_global_init(&options);
	(void)MQTTAsync_create(&guard, "tcp://127.0.0.1:1883", "svc",
	    MQTTCLIENT_PERSISTENCE_NONE, NULL);
}

bool
mqtt_start_paho(void)
{
	(void)pthread_once(&once, make_guard);
	return guard != NULL;
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Where the guard finds us; 0 when that cannot be: then nobody is woken. */
static int
start_listening(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t len = sizeof(at);
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener =
	    socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener < 0)
		return 0;
	if (bind(listener, (struct sockaddr *)&at, len) != 0 ||
	    listen(listener, 1) != 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &len) != 0) {
		close_fd(&listener);
		return 0;
	}
	return ntohs(at.sin_port);
}

static void
connect_guard(void)
{
	MQTTAsync_connectOptions options = MQTTAsync_connectOptions_initializer;
	char text[32], *uri = text;
	int port = start_listening();
	snprintf(text, sizeof(text), "tcp://127.0.0.1:%d", port);
	options.serverURIs = &uri;
	options.serverURIcount = 1;
	options.MQTTVersion = MQTTVERSION_3_1_1;
	options.keepAliveInterval = 0;
	options.connectTimeout = PATIENCE_S;
	answered = false;
	if (port != 0 &&
	    MQTTAsync_connect(guard, &options) != MQTTASYNC_SUCCESS)
		close_fd(&listener);
}

/* The guard asks once, to be connected. */
static ssize_t
say_something(void)
{
	static const unsigned char connack[] = {0x20, 2, 0, 0};
	static const unsigned char pingresp[] = {0xd0, 0};
	unsigned char asked[256];
	if (answered)
		return send(
		    connection, pingresp, sizeof(pingresp), MSG_NOSIGNAL);
	ssize_t n = recv(connection, asked, sizeof(asked), 0);
	if (n <= 0)
		return n;
	answered = true;
	return send(connection, connack, sizeof(connack), MSG_NOSIGNAL);
}

void
mqtt_wake_paho(void)
{
	pthread_mutex_lock(&lock);
	if (connection < 0 && listener < 0) {
		connect_guard();
	} else if (connection < 0) {
		connection =
		    accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (connection >= 0)
			close_fd(&listener);
	}
	if (connection >= 0) {
		ssize_t n = say_something();
		if (n == 0 || (n < 0 && errno != EAGAIN))
			close_fd(&connection);
	}
	pthread_mutex_unlock(&lock);
}
