/* SPDX-License-Identifier: Apache-2.0 */
/* What options, flags and environment become, and what is said of bad ones. */
#include <svc/svc.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static svc_err
init_with(struct svc_service *service, const char *const flags[])
{
	char *argv[16] = {0};
	int argc = 1;
	argv[0] = strdup("program");
	for (; flags != NULL && flags[argc - 1] != NULL; argc++)
		argv[argc] = strdup(flags[argc - 1]);
	svc_err code = svc_init(service, argc, argv);
	for (int i = 0; i < argc; i++)
		free(argv[i]);
	return code;
}
#define FLAGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void
defaults_are_documented_ones(void **state)
{
	(void)state;
	struct svc_service *s = svc_new();
	const struct svc_settings *settings = svc_settings_of(s);
	char *json = svc_settings_json(settings);
	assert_non_null(json);
	assert_non_null(strstr(json, "\"registry\":\"mdns\""));
	assert_non_null(strstr(json, "\"broker\":\"p2p\""));
	assert_non_null(strstr(json, "\"transport\":\"tcp\""));
	svc_mem_free(json);
	svc_free(s);

	s = svc_new(registry(memory), transport(memory), broker(memory));
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	const struct svc_options *o = svc_options_of(s);
	assert_string_equal(o->name, "svc.server");
	assert_string_equal(o->version, "latest");
	assert_int_equal(strncmp(o->id, "svc.server-", 11), 0);
	assert_int_equal(strlen(o->id), 11 + 36);
	assert_string_equal(o->address, ":0");
	assert_string_equal(o->selector, "random");
	assert_string_equal(o->codec, "application/json");
	assert_int_equal(o->ttl_ms, 30000);
	assert_int_equal(o->interval_ms, 10000);
	assert_int_equal(o->request_timeout_ms, 5000);
	assert_int_equal(o->retries, 1);
	assert_int_equal(o->max_message_size, 64 << 20);
	assert_int_equal(o->weight, 1);
	assert_int_equal(o->max_header_size, 65536);
	assert_int_equal(o->max_streams, 4096);
	assert_int_equal(o->max_connections, 65536);
	assert_int_equal(o->handshake_timeout_ms, 10000);
	assert_int_equal(o->idle_timeout_ms, 300000);
	assert_int_equal(o->keepalive_ms, 10000);
	assert_int_equal(o->stream_window, 2 << 20);
	assert_int_equal(o->connection_window, 4 << 20);
	assert_int_equal(o->threads, 256);
	assert_int_equal(o->busy_poll_us, 20);
	assert_true(o->loops >= 1);
	assert_int_equal(o->max_handlers, 256 - 16 - o->loops);
	assert_int_equal(o->queue_timeout_ms, 100);
	assert_string_equal(svc_string(s), "svc");
	assert_string_equal(svc_error_text(s), "");
	assert_false(svc_registered(s));
	assert_non_null(svc_client_of(s));
	assert_non_null(svc_server_of(s));
	assert_non_null(svc_registry_of(s));
	assert_non_null(svc_broker_of(s));
	svc_free(s);
}

static void
options_in_code(void **state)
{
	(void)state;
	int ttl = 7; /* the words of the list stay the user's */
	struct svc_service *s = svc_new(id("n1"), ttl(ttl), version("1.2"),
	    name("student"), metadata("zone", "a"), metadata("rack", "r=1"),
	    weight(5), selector(round_robin), address("memory:opt"),
	    advertise("example:1"), registry(memory, "options"),
	    transport(memory), broker(memory, "b"), codec("text/plain"),
	    interval(2), log_level("error"));
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	const struct svc_options *o = svc_options_of(s);
	assert_string_equal(o->name, "student");
	assert_string_equal(o->version, "1.2");
	assert_string_equal(o->id, "n1");
	assert_int_equal(o->ttl_ms, 7000);
	assert_int_equal(o->interval_ms, 2000);
	assert_int_equal(o->weight, 5);
	assert_string_equal(o->selector, "round_robin");
	assert_string_equal(o->registry_address, "options");
	assert_string_equal(o->broker_address, "b");
	assert_string_equal(o->codec, "text/plain");
	assert_string_equal(svc_headers_get(o->metadata, "zone"), "a");
	assert_string_equal(svc_headers_get(o->metadata, "rack"), "r=1");
	assert_int_equal(svc_start(s), SVC_OK);
	assert_string_equal(o->address, "memory:opt");
	assert_string_equal(o->advertise, "example:1");
	assert_true(svc_registered(s));

	struct svc_record_list list;
	assert_int_equal(
	    svc_registry_lookup(svc_registry_of(s), "student", &list, NULL),
	    SVC_OK);
	assert_int_equal(list.n_records, 1);
	const struct svc_node *node = &list.records[0]->nodes[0];
	assert_string_equal(list.records[0]->version, "1.2");
	assert_string_equal(node->id, "n1");
	assert_string_equal(node->address, "example:1");
	const struct {
		const char *name, *value;
	} wanted[] = {{"zone", "a"}, {"transport", "memory"},
	    {"protocol", "svc"}, {"server", "svc"}, {"registry", "memory"},
	    {"broker", "memory"}, {"svc", "1"}, {"weight", "5"}};
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		assert_string_equal(
		    svc_headers_get(node->metadata, wanted[i].name),
		    wanted[i].value);
	svc_record_list_fini(&list);
	svc_free(s);
}

static void
ttl_and_interval_follow_each_other(void **state)
{
	(void)state;
	const struct {
		const char *flags[3];
		int64_t ttl_ms, interval_ms;
	} good[] = {
	    {{"--registry_ttl=10"}, 10000, 3333},
	    {{"--register_ttl=90"}, 90000, 30000},
	    {{"--registry_ttl=2"}, 2000, 1000},
	    {{"--registry_ttl=300ms"}, 300, 150},
	    {{"--registry_interval=40"}, 120000, 40000},
	    {{"--registry_ttl=1m30s", "--register_interval=20"}, 90000, 20000},
	};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct svc_service *s = svc_new(
		    registry(memory), transport(memory), broker(memory));
		assert_int_equal(init_with(s, good[i].flags), SVC_OK);
		assert_int_equal(svc_options_of(s)->ttl_ms, good[i].ttl_ms);
		assert_int_equal(
		    svc_options_of(s)->interval_ms, good[i].interval_ms);
		svc_free(s);
	}
	struct svc_service *s = svc_new(registry(memory), transport(memory),
	    broker(memory), ttl(10), interval(10));
	svc_err code = svc_init(s, 0, NULL);
	assert_int_equal(code, SVC_E_INVAL);
	assert_int_equal(svc_exit_status(code), 2);
	assert_string_equal(svc_error_text(s),
	    "registry_ttl (10 s) must be above registry_interval (10 s), or "
	    "the node is gone between two renewals; three times as much is "
	    "usual");
	svc_free(s);
	/* Code and flag together. */
	s = svc_new(
	    registry(memory), transport(memory), broker(memory), ttl(5));
	assert_int_equal(
	    init_with(s, FLAGS("--registry_interval", "6")), SVC_E_INVAL);
	svc_free(s);
}

static void
bad_options_are_told_by_init(void **state)
{
	(void)state;
	void *nothing = NULL;
	const struct {
		struct svc_option option;
		svc_err code;
		const char *text;
	} bad[] = {
	    {SVC_OPT_ttl(0), SVC_E_INVAL,
		"option ttl(0): seconds must be from 1 to 315360000"},
	    {SVC_OPT_interval(-3), SVC_E_INVAL,
		"option interval(-3): seconds must be from 1 to 315360000"},
	    {SVC_OPT_name(""), SVC_E_INVAL,
		"option name() needs a text that is not empty"},
	    {SVC_OPT_weight(0), SVC_E_INVAL,
		"option weight(0): it must be from 1 to 1000000"},
	    {SVC_OPT_metadata("a b", "c"), SVC_E_INVAL,
		"option metadata(\"a b\", \"c\"): a name has 1 to 255 "
		"printable characters without space, ':' and '=', a value is "
		"one line"},
	    {SVC_OPT_selector(random, "x"), SVC_E_INVAL,
		"option selector(random) takes no address, but \"x\" was "
		"given"},
	    {SVC_OPT_registry("etcd", "x"), SVC_E_INVAL,
		"option registry(\"etcd\"): a plugin is a bare word, "
		"registry(etcd); one that is chosen at run time is given by "
		"--registry or by svc_new_options"},
	    {SVC_OPT_tls("a", NULL, "c"), SVC_E_INVAL,
		"option tls(cert, key, ca) needs a certificate with its key, "
		"or both NULL and a CA for a program that only calls"},
	    {SVC_OPT_tls(NULL, NULL, NULL), SVC_E_INVAL,
		"option tls(cert, key, ca) needs a certificate with its key, "
		"or both NULL and a CA for a program that only calls"},
	    {SVC_OPT_tls("a", "", "c"), SVC_E_INVAL,
		"option tls() needs a text that is not empty"},
	    {SVC_OPT_registry_tls(NULL, "b", NULL), SVC_E_INVAL,
		"option registry_tls(cert, key, ca) needs a certificate with "
		"its key, or both NULL and a CA for a program that only "
		"calls"},
	    {SVC_OPT_registry_option("", "c"), SVC_E_INVAL,
		"option registry_option(\"\", \"c\"): a name has 1 to 255 "
		"printable characters without space, ':' and '=', a value is "
		"one line"},
	    {{SVC_OPTION_QUEUE, "q", 0, 0, 0, nothing, 0}, SVC_E_INVAL, NULL},
	    {{SVC_OPTION_FLAG_INT, NULL, 0, 0, 0, nothing, 0}, SVC_E_INVAL,
		"option flag() needs a name and a variable"},
	    {{SVC_OPTION_WRAP_CALL, NULL, 0, 0, 0, nothing, 0}, SVC_E_INVAL,
		"option wrap_call() needs a function"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		/* The first one counts. */
		struct svc_option list[] = {
		    bad[i].option, SVC_OPT_ttl(-99), SVC_OPT_end()};
		struct svc_service *s = svc_new_options(list);
		assert_non_null(s);
		assert_int_equal(svc_init(s, 0, NULL), bad[i].code);
		if (bad[i].text != NULL)
			assert_string_equal(svc_error_text(s), bad[i].text);
		assert_null(svc_client_of(s));
		svc_free(s);
	}
}

static void
unknown_plugins_are_named_with_those_there_are(void **state)
{
	(void)state;
	struct svc_service *s =
	    svc_new(registry(nosuch), transport(memory), broker(memory));
	assert_int_equal(svc_init(s, 0, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "nosuch"));
	assert_non_null(strstr(svc_error_text(s), "memory"));
	svc_free(s);
	const struct {
		const char *flag, *there;
	} others[] = {{"--transport=nosuch", "memory"},
	    {"--broker=nosuch", "memory"}, {"--selector=nosuch", "random"}};
	for (size_t i = 0; i < 3; i++) {
		s = svc_new(
		    registry(memory), transport(memory), broker(memory));
		svc_err code = init_with(s, FLAGS(others[i].flag));
		assert_int_equal(code, SVC_E_INVAL);
		assert_int_equal(svc_exit_status(code), 2);
		assert_non_null(strstr(svc_error_text(s), "nosuch"));
		assert_non_null(strstr(svc_error_text(s), others[i].there));
		svc_free(s);
	}
	s = svc_new(registry(memory), transport(memory), broker(memory),
	    codec("application/nosuch"));
	assert_int_equal(svc_init(s, 0, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "application/nosuch"));
	assert_non_null(strstr(svc_error_text(s), "text/plain"));
	svc_free(s);
}

static void
flags_win_over_environment_over_code(void **state)
{
	(void)state;
	setenv("SVC_VERSION", "2.0", 1);
	setenv("MICRO_SERVER_NAME", "from-micro", 1);
	struct svc_service *s =
	    svc_new(registry(memory, "x"), transport(memory), broker(memory),
		name("code"), version("1.0"), metadata("a", "1"));
	assert_int_equal(
	    init_with(
		s, FLAGS("--server_id", "i7", "--metadata=b=2",
		       "--client_request_timeout=250ms", "--client_retries",
		       "0", "--max_message_size=64k", "--registry_address=y")),
	    SVC_OK);
	unsetenv("SVC_VERSION");
	unsetenv("MICRO_SERVER_NAME");
	const struct svc_options *o = svc_options_of(s);
	assert_string_equal(o->name, "from-micro");
	assert_string_equal(o->version, "2.0");
	assert_string_equal(o->id, "i7");
	assert_int_equal(o->request_timeout_ms, 250);
	assert_int_equal(o->retries, 0);
	assert_int_equal(o->max_message_size, 65536);
	assert_string_equal(o->registry_address, "y");
	assert_string_equal(svc_headers_get(o->metadata, "b"), "2");
	svc_free(s);
}

/* The last transport made by the plugin "limits", which is the memory one. */
static struct svc_transport_config limits_seen;

static svc_err
limits_create(const struct svc_transport_config *config, void **ret_self,
    struct svc_error *err)
{
	limits_seen = *config;
	return svc_transport_memory.create(config, ret_self, err);
}

static void
limits_reach_the_transport(void **state)
{
	(void)state;
	static struct svc_transport_ops ops;
	ops = svc_transport_memory;
	ops.name = "limits";
	ops.create = limits_create;
	assert_int_equal(svc_plugin_add(&ops), SVC_OK);
	struct svc_service *s =
	    svc_new(registry(memory), transport(limits), broker(memory));
	assert_int_equal(
	    init_with(s, FLAGS("--max_message_size=3m", "--max_header_size=4k",
			     "--max_streams=17", "--max_connections=18",
			     "--handshake_timeout=1500ms", "--idle_timeout=1m",
			     "--keepalive=2", "--stream_window=128k",
			     "--connection_window=1m", "--threads=20",
			     "--loops=3", "--busy_poll=7", "--max_handlers=7",
			     "--queue_timeout=250ms")),
	    SVC_OK);
	const struct svc_transport_limits *l = &limits_seen.limits;
	assert_int_equal(l->max_message, 3 << 20);
	assert_int_equal(l->max_headers, 4096);
	assert_int_equal(l->max_streams, 17);
	assert_int_equal(l->max_connections, 18);
	assert_int_equal(l->handshake_ms, 1500);
	assert_int_equal(l->idle_ms, 60000);
	assert_int_equal(l->keepalive_ms, 2000);
	assert_int_equal(l->stream_window, 128 << 10);
	assert_int_equal(l->conn_window, 1 << 20);
	assert_int_equal(svc_executor_loops(limits_seen.executor), 3);
	assert_int_equal(svc_executor_max_threads(limits_seen.executor), 20);
	assert_int_equal(svc_executor_busy_poll_us(limits_seen.executor), 7);
	const struct svc_options *o = svc_options_of(s);
	assert_int_equal(o->max_connections, 18);
	assert_int_equal(o->keepalive_ms, 2000);
	assert_int_equal(o->threads, 20);
	assert_int_equal(o->loops, 3);
	assert_int_equal(o->busy_poll_us, 7);
	assert_int_equal(o->max_handlers, 7);
	assert_int_equal(o->queue_timeout_ms, 250);
	svc_free(s);

	s = svc_new(registry(memory), transport(limits), broker(memory));
	assert_int_equal(init_with(s, FLAGS("--keepalive=0", "--idle_timeout=0",
					  "--max_handlers=0", "--threads=2",
					  "--busy_poll=0")),
	    SVC_OK);
	assert_int_equal(svc_executor_busy_poll_us(limits_seen.executor), 0);
	assert_int_equal(l->keepalive_ms, SVC_FOREVER);
	assert_int_equal(l->idle_ms, SVC_FOREVER);
	assert_int_equal(svc_options_of(s)->max_handlers, 0);
	assert_int_equal(svc_options_of(s)->loops, 1);
	svc_free(s);
}

static void
an_address_in_code_is_only_for_its_plugin(void **state)
{
	(void)state;
	struct svc_service *s = svc_new(registry(etcd, "127.0.0.1:2379"),
	    transport(memory), broker(mqtt, "127.0.0.1:1883"));
	assert_int_equal(
	    init_with(s, FLAGS("--registry=memory", "--broker=memory")),
	    SVC_OK);
	assert_null(svc_options_of(s)->registry_address);
	assert_null(svc_options_of(s)->broker_address);
	svc_free(s);
}

/* The last registry made by the plugin "choosy", which is the memory one. */
static struct svc_registry_config choosy_seen;
static char choosy_texts[5][64]; /* ca, cert, key, datacenter, tags */

static void
choosy_keep(size_t i, const char *text)
{
	snprintf(choosy_texts[i], sizeof(choosy_texts[i]), "%s",
	    text != NULL ? text : "-");
}

static svc_err
choosy_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	const struct svc_tls_config *tls = config->tls;
	choosy_seen = *config;
	choosy_keep(0, tls != NULL ? tls->ca : NULL);
	choosy_keep(1, tls != NULL ? tls->cert : NULL);
	choosy_keep(2, tls != NULL ? tls->key : NULL);
	choosy_keep(3, svc_headers_get(config->options, "datacenter"));
	choosy_keep(4, svc_headers_get(config->options, "tags"));
	return svc_registry_memory.create(config, ret_self, err);
}

static void
options_reach_the_registry(void **state)
{
	(void)state;
	static struct svc_registry_ops ops;
	ops = svc_registry_memory;
	ops.name = "choosy";
	ops.create = choosy_create;
	ops.options = "datacenter tags";
	ops.uses = SVC_REGISTRY_TLS;
	assert_int_equal(svc_plugin_add(&ops), SVC_OK);
	/* A pair of an upper layer replaces that of the code. */
	struct svc_service *s = svc_new(registry(choosy), transport(memory),
	    broker(memory), registry_option("datacenter", "eu"),
	    registry_option("tags", "a"), registry_tls("c", "k", NULL));
	assert_int_equal(
	    init_with(s, FLAGS("--registry_options", "tags=b;c,d",
			     "--registry_tls_ca=a", "--registry_tls_name=n")),
	    SVC_OK);
	static const char *const wanted[] = {"a", "c", "k", "eu", "b;c,d"};
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		assert_string_equal(choosy_texts[i], wanted[i]);
	assert_string_equal(choosy_seen.tls->name, "n");
	svc_free(s);
	/* What is set in the code is for the registry of the code only. */
	s = svc_new(registry(choosy), transport(memory), broker(memory),
	    registry_option("datacenter", "eu"), registry_tls("c", "k", "a"));
	assert_int_equal(init_with(s, FLAGS("--registry=memory")), SVC_OK);
	svc_free(s);
	/* "system" is TLS with the CAs of the system. */
	s = svc_new(registry(choosy), transport(memory), broker(memory));
	assert_int_equal(
	    init_with(s, FLAGS("--registry_tls_ca=system")), SVC_OK);
	assert_non_null(choosy_seen.tls);
	assert_string_equal(choosy_texts[0], "-");
	svc_free(s);
	s = svc_new(registry(choosy), transport(memory), broker(memory));
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	assert_null(choosy_seen.tls);
	svc_free(s);

	static const struct {
		const char *registry, *flag, *text;
	} bad[] = {
	    {"--registry=choosy", "--registry_options=tag=a",
		"registry choosy has no option \"tag\"; allowed: datacenter "
		"tags"},
	    {"--registry=memory", "--registry_options=tags=a",
		"registry memory has no options, but \"tags\" was given"},
	    {"--registry=memory", "--registry_tls_ca=system",
		"registry memory cannot speak TLS: leave out registry_tls_ca, "
		"registry_tls_cert and registry_tls_key"},
	    {"--registry=choosy", "--registry_tls_cert=c",
		"registry_tls_cert is set and registry_tls_key is not: a "
		"certificate and its key go together; a program that only "
		"calls may do with registry_tls_ca"},
	    {"--registry=choosy", "--registry_tls_name=n",
		"registry_tls_name is set, but nothing that turns TLS on: "
		"give registry_tls_cert and registry_tls_key, or "
		"registry_tls_ca (\"system\" for the CAs of this system) for "
		"a program that only calls"},
	    {"--registry=choosy", "--registry_options=tags",
		"--registry_options: \"tags\" is no pair; allowed: "
		"key=value"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		s = svc_new(transport(memory), broker(memory));
		svc_err code =
		    init_with(s, FLAGS(bad[i].registry, bad[i].flag));
		assert_int_equal(code, SVC_E_INVAL);
		assert_string_equal(svc_error_text(s), bad[i].text);
		svc_free(s);
	}
}

/* What the last registry of this plugin was to go on with. */
static char cautious_texts[2][96];

static svc_err
cautious_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	const char *const texts[] = {config->fallback, config->snapshot};
	for (size_t i = 0; i < 2; i++)
		snprintf(cautious_texts[i], sizeof(cautious_texts[i]), "%s",
		    texts[i] != NULL ? texts[i] : "-");
	return svc_registry_memory.create(config, ret_self, err);
}

static void
what_to_go_on_with_reaches_the_registry(void **state)
{
	(void)state;
	static struct svc_registry_ops ops;
	ops = svc_registry_memory;
	ops.name = "cautious";
	ops.create = cautious_create;
	assert_int_equal(svc_plugin_add(&ops), SVC_OK);
	struct svc_service *s = svc_new(registry(cautious), transport(memory),
	    broker(memory), registry_fallback(memory, "spare"),
	    registry_snapshot("/tmp/svc-option-test"));
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	assert_string_equal(cautious_texts[0], "memory:spare");
	assert_string_equal(cautious_texts[1], "/tmp/svc-option-test");
	svc_free(s);
	s = svc_new(registry(cautious), transport(memory), broker(memory),
	    registry_fallback(static, "nowhere"));
	assert_int_equal(
	    init_with(s, FLAGS("--registry_fallback=memory",
			     "--registry_snapshot=/tmp/svc-option-test")),
	    SVC_OK);
	assert_string_equal(cautious_texts[0], "memory");
	svc_free(s);
	s = svc_new(registry(cautious), transport(memory), broker(memory),
	    registry_fallback(nosuch));
	assert_int_equal(svc_init(s, 0, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s),
	    "option registry_fallback(nosuch): no registry \"nosuch\""));
	svc_free(s);
	s = svc_new(registry_snapshot(""));
	assert_int_equal(svc_init(s, 0, NULL), SVC_E_INVAL);
	assert_non_null(
	    strstr(svc_error_text(s), "option registry_snapshot() needs"));
	svc_free(s);
}

static void
own_flags(void **state)
{
	(void)state;
	int port = 1;
	long big = 2;
	bool loud = false;
	double rate = 0.5;
	const char *file = "none";
	struct svc_service *s = svc_new(registry(memory), transport(memory),
	    broker(memory), flag("port", "A port", &port),
	    flag("big", "Big", &big), flag("loud", "Loud", &loud),
	    flag("rate", "Rate", &rate), flag("file", "File", &file));
	assert_int_equal(
	    init_with(s, FLAGS("--port=80", "--big=5000000000", "--loud",
			     "--rate", "1.5", "--file=f.txt")),
	    SVC_OK);
	assert_int_equal(port, 80);
	assert_true(big == 5000000000L);
	assert_true(loud);
	assert_true(rate > 1.4 && rate < 1.6);
	assert_string_equal(file, "f.txt");
	svc_free(s);

	s = svc_new(flag("registry", "Mine", &file));
	assert_int_equal(svc_init(s, 0, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "flag(\"registry\")"));
	svc_free(s);
}

static void
bad_flags_are_usage_errors(void **state)
{
	(void)state;
	const struct {
		const char *flag, *part;
	} bad[] = {
	    {"--registy=memory", "registry"},
	    {"--registry_ttl=soon", "registry_ttl"},
	    {"--client_retries=-1", "client_retries"},
	    {"--log_level=loud", "debug"},
	    {"--name=a/b", "a/b"},
	    {"--id=a b", "a b"},
	    {"stray", "stray"},
	    {"--max_handlers=-2", "max_handlers"},
	    {"--max_header_size=1m", "256 to 64k"},
	    {"--max_streams=0", "max_streams"},
	    {"--max_connections=many", "max_connections"},
	    {"--handshake_timeout=0", "handshake_timeout"},
	    {"--idle_timeout=-1s", "idle_timeout"},
	    {"--keepalive=x", "keepalive"},
	    {"--stream_window=1", "1k to 1g"},
	    {"--stream_window=8m", "connection_window (4194304 bytes)"},
	    {"--threads=1", "threads"},
	    {"--loops=65", "64"},
	    {"--busy_poll=1001", "0 to 1000"},
	    {"--queue_timeout=-5", "queue_timeout"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_service *s = svc_new(
		    registry(memory), transport(memory), broker(memory));
		assert_int_equal(init_with(s, FLAGS(bad[i].flag)), SVC_E_INVAL);
		assert_non_null(strstr(svc_error_text(s), bad[i].part));
		assert_null(strchr(svc_error_text(s), '\n'));
		svc_free(s);
	}
}

/* Runs init with standard output in a file; the text is to be freed. */
static char *
printed_by(struct svc_service *service, const char *flag)
{
	FILE *file = tmpfile();
	fflush(stdout);
	int saved = dup(1);
	dup2(fileno(file), 1);
	assert_int_equal(init_with(service, FLAGS(flag)), SVC_E_DONE);
	fflush(stdout);
	dup2(saved, 1);
	close(saved);
	rewind(file);
	char *text = calloc(1, 65536);
	size_t len = fread(text, 1, 65535, file);
	assert_true(len > 0);
	fclose(file);
	return text;
}

static void
help_and_version_print_and_end(void **state)
{
	(void)state;
	int port = 8080;
	struct svc_service *s = svc_new(registry(memory), transport(memory),
	    name("helped"), flag("port", "The port of it", &port));
	char *text = printed_by(s, "--help");
	const char *const parts[] = {"--registry_ttl", "--name", "helped",
	    "The port of it", "8080", "--drain_timeout", "memory",
	    "round_robin"};
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		assert_non_null(strstr(text, parts[i]));
	free(text);
	assert_null(svc_client_of(s));
	svc_free(s);

	s = svc_new(name("student"), version("3.1"));
	text = printed_by(s, "--version");
	char wanted[80];
	snprintf(
	    wanted, sizeof(wanted), "student 3.1 (svc %s)\n", svc_version());
	assert_string_equal(text, wanted);
	free(text);
	svc_free(s);
	assert_int_equal(svc_exit_status(SVC_E_DONE), 0);

	s = svc_new(registry(memory), transport(memory), broker(memory));
	assert_int_equal(init_with(s, FLAGS("--version=4")), SVC_OK);
	assert_string_equal(svc_options_of(s)->version, "4");
	svc_free(s);
}

static void
no_service_is_no_memory(void **state)
{
	(void)state;
	assert_int_equal(svc_init(NULL, 0, NULL), SVC_E_NOMEM);
	assert_int_equal(svc_start(NULL), SVC_E_NOMEM);
	assert_int_equal(svc_run(NULL), SVC_E_NOMEM);
	assert_int_equal(
	    svc_handle_options(NULL, "A.B", NULL, NULL, NULL), SVC_E_NOMEM);
	assert_int_equal(
	    svc_subscribe_options(NULL, "t", NULL, NULL, NULL), SVC_E_NOMEM);
	assert_int_equal(svc_publish(NULL, "t", NULL), SVC_E_NOMEM);
	assert_string_equal(svc_error_text(NULL), "out of memory");
	assert_false(svc_registered(NULL));
	svc_stop(NULL);
	svc_free(NULL);
}

static bool
fail_one(size_t size, void *arg)
{
	(void)size;
	long *left = arg;
	return (*left)-- != 0;
}

static bool
count_all(size_t size, void *arg)
{
	(void)size;
	++*(long *)arg;
	return true;
}

/* With each allocation failing in turn, building either works or says so. */
static void
building_survives_each_failing_allocation(void **state)
{
	(void)state;
	const struct svc_option list[] = {SVC_OPT_name("student"),
	    SVC_OPT_metadata("a", "b"), SVC_OPT_registry(memory, "sweep"),
	    SVC_OPT_transport(memory), SVC_OPT_broker(memory), SVC_OPT_end()};
	long total = 0;
	svc_mem_set_hook(count_all, &total);
	struct svc_service *s = svc_new_options(list);
	svc_mem_set_hook(NULL, NULL);
	svc_free(s);
	assert_true(total > 20);
	for (long i = 0; i < total; i++) {
		long left = i;
		svc_mem_set_hook(fail_one, &left);
		s = svc_new_options(list);
		svc_mem_set_hook(NULL, NULL);
		if (s != NULL) {
			svc_err code = svc_init(s, 0, NULL);
			assert_true(code == SVC_OK || code == SVC_E_NOMEM);
		}
		svc_free(s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults_are_documented_ones),
	    cmocka_unit_test(options_in_code),
	    cmocka_unit_test(ttl_and_interval_follow_each_other),
	    cmocka_unit_test(bad_options_are_told_by_init),
	    cmocka_unit_test(unknown_plugins_are_named_with_those_there_are),
	    cmocka_unit_test(flags_win_over_environment_over_code),
	    cmocka_unit_test(limits_reach_the_transport),
	    cmocka_unit_test(an_address_in_code_is_only_for_its_plugin),
	    cmocka_unit_test(options_reach_the_registry),
	    cmocka_unit_test(what_to_go_on_with_reaches_the_registry),
	    cmocka_unit_test(own_flags),
	    cmocka_unit_test(bad_flags_are_usage_errors),
	    cmocka_unit_test(help_and_version_print_and_end),
	    cmocka_unit_test(no_service_is_no_memory),
	    cmocka_unit_test(building_survives_each_failing_allocation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
