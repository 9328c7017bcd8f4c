/* SPDX-License-Identifier: Apache-2.0 */
#include "announce.h"

#include "common/bench.h"

void
bench_announce(
    struct svc_service *service, const char *address, const char *id, bool tls)
{
	struct svc_headers *metadata = svc_headers_create();
	struct svc_error err = {.text = "out of memory"};
	struct svc_node node = {
	    .id = id, .address = address, .metadata = metadata};
	struct svc_record record = {
	    .name = "echo", .version = "latest", .nodes = &node, .n_nodes = 1};
	if (svc_headers_set(metadata, "transport", "tcp") != SVC_OK ||
	    svc_headers_set(metadata, "svc", "1") != SVC_OK ||
	    (tls && svc_headers_set(metadata, "tls", "true") != SVC_OK) ||
	    svc_registry_announce(
		svc_registry_of(service), &record, 3600000, &err) != SVC_OK)
		bench_die("%s", err.text);
	svc_headers_destroy(metadata);
}

svc_err
bench_init(struct svc_service *service)
{
	static char name[] = "bench", loops[] = "--loops=1";
	char *argv[] = {name, loops, NULL};
	return svc_init(service, 2, argv);
}

struct svc_service *
bench_caller(const char *ca)
{
	const struct svc_option list[] = {
	    SVC_OPT_name("caller"),
	    SVC_OPT_registry(memory),
	    SVC_OPT_broker(memory),
	    SVC_OPT_log_level("error"),
	    ca != NULL ? (struct svc_option)SVC_OPT_tls(NULL, NULL, ca)
		       : (struct svc_option)SVC_OPT_,
	    SVC_OPT_end(),
	};
	struct svc_service *service = svc_new_options(list);
	if (bench_init(service) != SVC_OK)
		bench_die("%s", svc_error_text(service));
	return service;
}
