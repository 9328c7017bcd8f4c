/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry scene against real servers, one for all rounds, and on the
 * network of mdns.
 */
#include "registry_scene.h"
#include "support/servers.h"

#include <svc/log.h>
#include <svc/plugin.h>

#include <stdio.h>
#include <string.h>

static struct test_server *servers[3];
static const char *const programs[3] = {"etcd", "redis-server", "consul"};
static const char *const plugins[3] = {"etcd", "redis", "consul"};

static struct test_server *
start(int i)
{
	switch (i) {
	case 0:
		return start_etcd(NULL);
	case 1:
		return start_redis(NULL);
	default:
		return start_consul(NULL);
	}
}

static bool
have(const char *plugin)
{
	const void *ops;
	if (svc_catalogue_find(&svc_registry_interface, plugin, &ops, NULL) !=
	    SVC_OK)
		return false;
	for (int i = 0; i < 3; i++)
		if (strcmp(plugins[i], plugin) == 0 &&
		    !test_server_have(programs[i]))
			return false;
	return true;
}

static void
play(struct stress_actor *owner, const struct stress_scene *scene)
{
	const void *ops;
	struct registry_kind kind = {.brief_ms = 1000, .has_server = true};
	STRESS_CHECK(svc_catalogue_find(&svc_registry_interface, scene->variant,
			 &ops, NULL) == SVC_OK);
	kind.ops = ops;
	for (int i = 0; i < 3; i++) {
		if (strcmp(plugins[i], scene->variant) != 0)
			continue;
		if (servers[i] == NULL)
			servers[i] = start(i);
		STRESS_CHECK(servers[i] != NULL);
		kind.address = servers[i]->address;
	}
	registry_play(owner, &kind);
}

int
main(int argc, char *argv[])
{
	static const struct stress_scene scenes[] = {
	    {"mdns", 2, play, "mdns", have},
	    {"redis", 3, play, "redis", have},
	    {"etcd", 3, play, "etcd", have},
	    {"consul", 2, play, "consul", have},
	    {0},
	};
	svc_log_set_level(SVC_LOG_OFF);
	if (!registry_scene_begin())
		return 1;
	int status = stress_main(argc, argv, scenes);
	for (int i = 0; i < 3; i++)
		test_server_stop(servers[i]);
	registry_scene_end();
	return status;
}
