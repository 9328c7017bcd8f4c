/* SPDX-License-Identifier: Apache-2.0 */
/* The config file. Whatever it holds, it is taken or refused with a line that
 * names it, and what was taken can be shown. */
#include "settings_private.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool truth)
{
	if (!truth)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *name = NULL, *level = NULL;
	const char *school = NULL;
	bool verbose = false;
	int64_t retries = 1, ttl = 1000, limit = 1;
	double jitter = 0;
	int students = 0;
	struct svc_headers *metadata = NULL;
	const struct svc_setting table[] = {
	    {.name = "name",
		.aliases = "server_name",
		.kind = SVC_SETTING_TEXT,
		.target = &name},
	    {.name = "log_level",
		.kind = SVC_SETTING_TEXT,
		.target = &level,
		.choices = "debug info warn"},
	    {.name = "school", .kind = SVC_SETTING_APP_TEXT, .target = &school},
	    {.name = "verbose", .kind = SVC_SETTING_BOOL, .target = &verbose},
	    {.name = "retries",
		.kind = SVC_SETTING_INT,
		.target = &retries,
		.max = 10},
	    {.name = "registry_ttl",
		.kind = SVC_SETTING_DURATION,
		.target = &ttl,
		.unit_ms = 1000,
		.min = 1000,
		.max = 3600000},
	    {.name = "size_limit", .kind = SVC_SETTING_SIZE, .target = &limit},
	    {.name = "jitter", .kind = SVC_SETTING_REAL, .target = &jitter},
	    {.name = "students",
		.kind = SVC_SETTING_APP_INT,
		.target = &students},
	    {.name = "metadata",
		.kind = SVC_SETTING_PAIRS,
		.target = &metadata},
	};
	struct svc_settings *settings = svc_settings_create("fuzz");
	check(settings != NULL);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		check(svc_settings_add(settings, &table[i], NULL) == SVC_OK);
	struct svc_error err;
	svc_err failed = svc_settings_read(settings, "file", data, size, &err);
	if (failed != SVC_OK) {
		check(failed == SVC_E_INVAL && err.code == failed);
		check(strncmp(err.text, "file line ", 10) == 0);
	}
	/* Limits hold whether or not the whole was taken. */
	check(retries >= 0 && retries <= 10);
	check(ttl >= 1000 && ttl <= 3600000);
	check(limit >= 0);
	char *help = svc_settings_help(settings, NULL, NULL);
	char *json = svc_settings_json(settings);
	check(help != NULL);
	check(json != NULL);
	svc_mem_free(help);
	svc_mem_free(json);
	svc_settings_destroy(settings);
	svc_mem_free(name);
	svc_mem_free(level);
	svc_headers_destroy(metadata);
	return 0;
}
