/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"
#include <names/names.h>
#include <tls/tls.h>

#include <netdb.h>
#include <stdio.h>
#include <string.h>

svc_err
tcp_look_up(const char *address, bool passive, bool numeric_only,
    struct addrinfo **ret_found, struct svc_error *err)
{
	char host[256], port[8];
	uint16_t number;
	svc_err rc =
	    svc_address_split(address, host, sizeof(host), &number, err);
	if (rc != SVC_OK)
		return rc;
	bool every = names_every(host);
	if (!passive && (number == 0 || every))
		return svc_error_set(err, SVC_E_INVAL,
		    "address \"%s\" cannot be called: it needs a host and a "
		    "port above 0",
		    address);
	rc = names_check_link(host, address, err);
	if (rc != SVC_OK)
		return rc;
	snprintf(port, sizeof(port), "%u", number);
	/* Every interface is meant by IPv6, whose sockets take both. */
	struct addrinfo hints = {
	    .ai_family = every ? AF_INET6 : AF_UNSPEC,
	    .ai_socktype = SOCK_STREAM,
	    .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0) |
			(numeric_only ? AI_NUMERICHOST : 0),
	};
	int sys = getaddrinfo(every ? NULL : host, port, &hints, ret_found);
	if (sys == EAI_NONAME && numeric_only)
		return SVC_E_AGAIN;
	if (sys != 0)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "host of address \"%s\" cannot be resolved: %s", address,
		    gai_strerror(sys));
	return SVC_OK;
}

static svc_err
tcp_create(const struct svc_transport_config *config, void **ret_self,
    struct svc_error *err)
{
	struct tcp *tcp = svc_mem_calloc(1, sizeof(*tcp));
	if (tcp == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	tcp->config = *config;
	tcp->config.limits = svc_transport_limits_fill(&config->limits);
	if (config->tls != NULL) {
		svc_err rc = tls_files_create(config->tls, &tcp->tls, err);
		if (rc == SVC_OK)
			tcp->shaker = tls_shaker_create(config->executor);
		if (rc == SVC_OK && tcp->shaker == NULL)
			rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
		if (rc != SVC_OK) {
			tls_files_destroy(tcp->tls);
			svc_mem_free(tcp);
			return rc;
		}
	}
	pthread_mutex_init(&tcp->mutex, NULL);
	svc_cond_init(&tcp->changed);
	*ret_self = tcp;
	return SVC_OK;
}

static void
tcp_destroy(void *self)
{
	struct tcp *tcp = self;
	/* Those that were given up may still be closing on their loops. */
	pthread_mutex_lock(&tcp->mutex);
	while (tcp->n_conns > 0)
		pthread_cond_wait(&tcp->changed, &tcp->mutex);
	pthread_mutex_unlock(&tcp->mutex);
	for (int i = 0; i < TCP_KEPT; i++)
		svc_mem_free(tcp->kept[i]);
	tls_shaker_destroy(tcp->shaker);
	tls_files_destroy(tcp->tls);
	pthread_cond_destroy(&tcp->changed);
	pthread_mutex_destroy(&tcp->mutex);
	svc_mem_free(tcp);
}

static svc_err
tcp_listen(void *self, const char *address, svc_accept_cb accept, void *arg,
    void **ret_listener, struct svc_error *err)
{
	struct tcp *tcp = self;
	struct listener *listener;
	if (tcp->tls != NULL && tcp->config.tls->cert == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "a service that speaks TLS needs a certificate: give "
		    "--tls_cert and --tls_key");
	svc_err rc = listener_create(tcp, address, accept, arg, &listener, err);
	if (rc == SVC_OK)
		*ret_listener = listener;
	return rc;
}

static const char *
tcp_listener_address(void *listener)
{
	return listener_address(listener);
}

static void
tcp_drain(void *listener)
{
	listener_drain(listener);
}

static void
tcp_linger_until(void *listener, int64_t until_at_ms)
{
	__atomic_store_n(
	    listener_linger(listener), until_at_ms, __ATOMIC_RELAXED);
}

static void
tcp_listener_destroy(void *listener)
{
	listener_destroy(listener);
}

static svc_err
tcp_dial(void *self, const char *address, int64_t timeout_ms, void **ret_conn,
    struct svc_error *err)
{
	struct conn *conn;
	svc_err rc = conn_dial(self, address, timeout_ms, &conn, err);
	if (rc == SVC_OK)
		*ret_conn = conn;
	return rc;
}

static void
tcp_conn_destroy(void *conn)
{
	conn_release(conn);
}

static svc_err
tcp_open(void *conn, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	return conn_open(conn, first, flags, events, user, ret_stream, err);
}

const struct svc_transport_ops tcp_ops = {
    .abi = SVC_TRANSPORT_ABI,
    .size = sizeof(struct svc_transport_ops),
    .name = "tcp",
    .create = tcp_create,
    .destroy = tcp_destroy,
    .listen = tcp_listen,
    .listener_address = tcp_listener_address,
    .drain = tcp_drain,
    .listener_destroy = tcp_listener_destroy,
    .dial = tcp_dial,
    .conn_destroy = tcp_conn_destroy,
    .open = tcp_open,
    .send = svc_mux_send,
    .wait = conn_wait,
    .release = svc_mux_release,
    .peer = svc_mux_peer,
    .cancelled = svc_mux_cancelled,
    .credit = svc_mux_credit,
    .answer = svc_mux_answer,
    .flush = svc_mux_flush,
    .linger_until = tcp_linger_until,
    .identity = conn_identity,
    .on_cancel = svc_mux_on_cancel,
    .interrupt = svc_mux_interrupt,
};

SVC_PLUGIN(tcp_ops);
