/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scenes of registries and brokers with real servers, one for all rounds,
 * and on the network of mdns.
 */
#include "broker_scene.h"
#include "registry_scene.h"
#include "support/servers.h"

#include <svc/log.h>
#include <svc/plugin.h>

#include <stdio.h>
#include <string.h>

static struct kind {
	const char *plugin;
	const struct svc_interface *interface;
	const char *program; /* NULL: none */
	struct test_server *(*start)(const char *settings);
	struct test_server *server;
} kinds[] = {
    {"mdns", &svc_registry_interface, NULL, NULL, NULL},
    {"redis", &svc_registry_interface, "redis-server", start_redis, NULL},
    {"etcd", &svc_registry_interface, "etcd", start_etcd, NULL},
    {"consul", &svc_registry_interface, "consul", start_consul, NULL},
    {"mqtt", &svc_broker_interface, "mosquitto", start_mosquitto, NULL},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static struct kind *
kind_of(const char *plugin)
{
	size_t i = 0;
	while (strcmp(kinds[i].plugin, plugin) != 0)
		i++;
	return &kinds[i];
}

static bool
have(const char *plugin)
{
	const struct kind *kind = kind_of(plugin);
	const void *ops;
	return svc_catalogue_find(kind->interface, plugin, &ops, NULL) ==
		   SVC_OK &&
	       (kind->program == NULL || test_server_have(kind->program));
}

static void
play(struct stress_actor *owner, const struct stress_scene *scene)
{
	struct kind *kind = kind_of(scene->variant);
	const void *ops;
	STRESS_CHECK(svc_catalogue_find(
			 kind->interface, kind->plugin, &ops, NULL) == SVC_OK);
	if (kind->start != NULL && kind->server == NULL)
		kind->server = kind->start(NULL);
	STRESS_CHECK(kind->start == NULL || kind->server != NULL);
	const char *address =
	    kind->server != NULL ? kind->server->address : NULL;
	if (kind->interface == &svc_broker_interface)
		broker_play(owner,
		    &(struct broker_kind){.ops = ops, .address = address});
	else
		registry_play(owner, &(struct registry_kind){.ops = ops,
					 .address = address,
					 .brief_ms = 1000,
					 .has_server = true});
}

int
main(int argc, char *argv[])
{
	static const struct stress_scene scenes[] = {
	    {"mdns", 2, play, "mdns", have},
	    {"redis", 3, play, "redis", have},
	    {"etcd", 3, play, "etcd", have},
	    {"consul", 2, play, "consul", have},
	    {"mqtt", 2, play, "mqtt", have},
	    {0},
	};
	svc_log_set_level(SVC_LOG_OFF);
	if (!registry_scene_begin())
		return 1;
	int status = stress_main(argc, argv, scenes);
	for (size_t i = 0; i < N_KINDS; i++)
		test_server_stop(kinds[i].server);
	registry_scene_end();
	return status;
}
