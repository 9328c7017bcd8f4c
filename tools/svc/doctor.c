/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: what works from this machine with the chosen registry and broker, and
 * what to do about the rest. */
#include "doctor.h"
#include "out.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#define PROBE_TTL_MS 10000

/* ------------------------------------------------------------------ saying */

static volatile sig_atomic_t interrupted;

static void
on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

bool
doctor_interrupted(void)
{
	return interrupted != 0;
}

/* The first signal ends the examination in order; the second one at once. */
static void
catch_signals(void)
{
	struct sigaction action = {
	    .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static const struct {
	const char *name;
	enum out_style style;
} states[] = {
    [DOCTOR_OK] = {"ok", OUT_GOOD},
    [DOCTOR_WARNING] = {"warning", OUT_HEAD},
    [DOCTOR_FAILED] = {"failed", OUT_BAD},
    [DOCTOR_SKIPPED] = {"skipped", OUT_DIM},
};

static void
say_json(struct doctor *doctor, enum doctor_state state, const char *what,
    double ms, const char *advice, const char *found)
{
	struct svc_buf *json = &doctor->json;

	svc_buf_puts(
	    json, doctor->n_checks > 0 ? ",{\"check\":" : "{\"check\":");
	out_json_text(json, what);
	svc_buf_printf(
	    json, ",\"state\":\"%s\",\"found\":", states[state].name);
	out_json_text(json, found);
	if (ms >= 0)
		svc_buf_printf(json, ",\"ms\":%.1f", ms);
	if (advice != NULL) {
		svc_buf_puts(json, ",\"advice\":");
		out_json_text(json, advice);
	}
	svc_buf_putc(json, '}');
}

void
doctor_say(struct doctor *doctor, enum doctor_state state, const char *what,
    double ms, const char *advice, const char *format, ...)
{
	char found[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(found, sizeof(found), format, args);
	va_end(args);
	if (doctor->tool->json) {
		say_json(doctor, state, what, ms, advice, found);
	} else {
		out_text(states[state].style, states[state].name);
		printf("%*s", (int)(9 - strlen(states[state].name)), "");
		out_text(OUT_PLAIN, what);
		fputs(": ", stdout);
		out_text(OUT_PLAIN, found);
		if (ms >= 0)
			printf(" (%.1f ms)", ms);
		if (advice != NULL) {
			fputs("\n         -> ", stdout);
			out_text(OUT_PLAIN, advice);
		}
		putchar('\n');
		out_flush();
	}
	doctor->n_checks++;
	doctor->n_warnings += state == DOCTOR_WARNING;
	doctor->n_failed += state == DOCTOR_FAILED;
}

double
doctor_since_ms(int64_t from_us)
{
	return (double)(svc_now_us() - from_us) / 1000;
}

static const char *
text_of(svc_err code, const struct svc_error *err)
{
	return err->text[0] != '\0' ? err->text : svc_err_text(code);
}

/* What the text of a failure points at, when it is one of TLS or of another
 * program at the address; else NULL. */
static const char *
advise_connection(const char *text)
{
	static const struct {
		const char *part, *advice;
	} known[] = {
	    {"rivate key",
		"give the key that belongs to --registry_tls_cert: a PEM file "
		"without a passphrase, which this user may read."},
	    {"PEM client certificate",
		"give --registry_tls_cert a PEM file, the certificate first."},
	    {"error setting certificate",
		"give --registry_tls_ca a PEM file of CA certificates."},
	    {"has expired",
		"issue a new certificate for the server; if its dates are "
		"right, set the clock of this host (date; timedatectl)."},
	    {"not yet valid",
		"set the clock of this host (date; timedatectl), or issue the "
		"server's certificate anew."},
	    {"another name",
		"put the name into --registry_address that the certificate "
		"has, or say it by --registry_tls_name; openssl s_client "
		"-connect HOST:PORT | openssl x509 -noout -ext subjectAltName "
		"shows it."},
	    {"mismatch",
		"put the name into --registry_address that the certificate "
		"has, or say it by --registry_tls_name; openssl s_client "
		"-connect HOST:PORT | openssl x509 -noout -ext subjectAltName "
		"shows it."},
	    {"client certificate",
		"give --registry_tls_cert and --registry_tls_key, of a CA that "
		"the server trusts."},
	    {"the CA of our certificate",
		"give --registry_tls_cert and --registry_tls_key, of a CA that "
		"the server trusts."},
	    {"not trusted",
		"name by --registry_tls_ca the file of the CA that issued the "
		"server's certificate."},
	    {"issuer certificate",
		"name by --registry_tls_ca the file of the CA that issued the "
		"server's certificate."},
	    {"self-signed",
		"name by --registry_tls_ca the file of the CA that issued the "
		"server's certificate."},
	    {"is it etcd 3.4",
		"name the client port of an etcd 3.4 or later (2379 unless it "
		"was set): something else answers at this one."},
	    {"no reply of redis",
		"name the port of a redis (6379 unless it was set): something "
		"else answers at this one."},
	    {"use rediss://", "write rediss:// before the address, or set "
			      "--registry_tls_ca."},
	    {"if it speaks none", "the server speaks no TLS: leave rediss:// "
				  "and --registry_tls_* out, or turn its TLS "
				  "on."},
	    {"use https://",
		"write https:// before the address, or set --registry_tls_ca."},
	    {"use http://", "the server speaks no TLS: leave https:// and "
			    "--registry_tls_* out, or turn its TLS on."},
	};
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strstr(text, known[i].part) != NULL)
			return known[i].advice;
	return NULL;
}

/* What to do about a failure of the registry or the broker. */
static const char *
advise(const struct doctor *doctor, const char *room, svc_err code,
    const char *text, char *out, size_t size)
{
	bool registry = strcmp(room, "registry") == 0;

	bool connection = code == SVC_E_UNAVAILABLE || code == SVC_E_INVAL ||
			  code == SVC_E_TIMEDOUT;
	if (registry && connection && advise_connection(text) != NULL)
		return advise_connection(text);
	if (registry && strcmp(doctor->options->registry, "mdns") == 0)
		snprintf(out, size,
		    "see the lines about mdns above, and that UDP 5353 is "
		    "allowed in and out.");
	else if (registry && code == SVC_E_DENIED &&
		 strcmp(doctor->options->registry, "consul") == 0)
		snprintf(out, size,
		    "give an ACL token that may write services and read nodes "
		    "and services (service_prefix \"\" { policy = \"write\" } "
		    "node_prefix \"\" { policy = \"read\" }), best in "
		    "SVC_REGISTRY_PASSWORD.");
	else if (registry && code == SVC_E_EXHAUSTED &&
		 strcmp(doctor->options->registry, "etcd") == 0)
		snprintf(out, size,
		    "make room (etcdctl compact REVISION; etcdctl defrag) or "
		    "raise --quota-backend-bytes of etcd, and then etcdctl "
		    "alarm disarm: it refuses until then; what is registered "
		    "goes on being found.");
	else if (registry && code == SVC_E_EXHAUSTED)
		snprintf(out, size,
		    "give the server more memory or disk, or free some; what "
		    "is registered goes on being found.");
	else if (code == SVC_E_DENIED)
		snprintf(out, size,
		    "check --%s_username and the password, best given in "
		    "SVC_%s_PASSWORD, and what the server lets this user do.",
		    room, registry ? "REGISTRY" : "BROKER");
	else if (code == SVC_E_INVAL)
		snprintf(out, size,
		    "correct the setting or the file that is named.");
	else if (code == SVC_E_TIMEDOUT)
		snprintf(out, size,
		    "the server is slow or hangs: look at its log; more time "
		    "is given by %s.",
		    registry ? "--registry_timeout"
			     : "--client_request_timeout");
	else if (code == SVC_E_UNAVAILABLE && registry)
		snprintf(out, size,
		    "see whether the server runs at --registry_address; when "
		    "the text is about a certificate or TLS, check "
		    "--registry_tls_ca, --registry_tls_name and "
		    "--registry_tls_cert.");
	else if (code == SVC_E_UNAVAILABLE)
		snprintf(out, size,
		    "see whether the server runs at --broker_address, and "
		    "check --broker_username and the password.");
	else
		snprintf(out, size, "see the log of the server of --%s.", room);
	return out;
}

/* --------------------------------------------------------------- settings */

static const char *
source(const struct doctor *doctor, const char *setting)
{
	static const char *const names[] = {
	    [SVC_SOURCE_CODE] = "default",
	    [SVC_SOURCE_FILE] = "config file",
	    [SVC_SOURCE_ENVIRONMENT] = "environment",
	    [SVC_SOURCE_FLAG] = "flag",
	};
	return names[svc_settings_source(
	    svc_settings_of(doctor->tool->service), setting)];
}

static void
check_settings(struct doctor *doctor)
{
	const struct svc_options *o = doctor->options;
	const char *const all[][2] = {
	    {"registry", o->registry},
	    {"registry_address", o->registry_address},
	    {"broker", o->broker},
	    {"broker_address", o->broker_address},
	    {"transport", o->transport},
	};
	char text[900];
	size_t n = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		bool given = all[i][1] != NULL && all[i][1][0] != '\0';

		if (n < sizeof(text))
			n += (size_t)snprintf(text + n, sizeof(text) - n,
			    "%s%s %s (%s)", i > 0 ? ", " : "", all[i][0],
			    given ? all[i][1] : "of the plugin",
			    source(doctor, all[i][0]));
	}
	doctor_say(doctor, DOCTOR_OK, "settings", -1, NULL, "%s", text);
}

/* ---------------------------------------------------- the registry at work */

/* What callbacks have seen; static, for they may still come when the
 * examination has been given up. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool created, removed, heard;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void
see(bool *what)
{
	pthread_mutex_lock(&seen.lock);
	*what = true;
	pthread_cond_broadcast(&seen.changed);
	pthread_mutex_unlock(&seen.lock);
}

static bool
has_seen(const bool *what)
{
	bool yes;

	pthread_mutex_lock(&seen.lock);
	yes = *what;
	pthread_mutex_unlock(&seen.lock);
	return yes;
}

static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	(void)record;
	(void)arg;
	if (change == SVC_CREATED)
		see(&seen.created);
	else if (change == SVC_REMOVED)
		see(&seen.removed);
}

/* A signal does not wake a condition, so it looks up now and then. */
static bool
await(const struct doctor *doctor, const bool *what)
{
	int64_t until_ms = svc_deadline(doctor->limit_ms);
	bool yes;

	pthread_mutex_lock(&seen.lock);
	while (!*what && !interrupted && svc_remaining(until_ms) > 0) {
		int64_t look_ms = svc_deadline(100);

		svc_cond_wait(&seen.changed, &seen.lock,
		    look_ms < until_ms ? look_ms : until_ms);
	}
	yes = *what;
	pthread_mutex_unlock(&seen.lock);
	return yes;
}

/* Says how the step went; true when well. */
static bool
step(struct doctor *doctor, const char *what, int64_t from_us, svc_err code,
    const struct svc_error *err, const char *well)
{
	char advice[320];

	if (code == SVC_OK)
		doctor_say(doctor, DOCTOR_OK, what, doctor_since_ms(from_us),
		    NULL, "%s", well);
	else
		doctor_say(doctor, DOCTOR_FAILED, what,
		    doctor_since_ms(from_us),
		    advise(doctor,
			strncmp(what, "broker", 6) == 0 ? "broker" : "registry",
			code, text_of(code, err), advice, sizeof(advice)),
		    "%s", text_of(code, err));
	return code == SVC_OK;
}

static svc_err
waited(const struct doctor *doctor, const bool *what, const char *text,
    struct svc_error *err)
{
	if (await(doctor, what))
		return SVC_OK;
	return svc_error_set(err, SVC_E_TIMEDOUT, "%s within %lld ms", text,
	    (long long)doctor->limit_ms);
}

static void
probe(struct doctor *doctor, struct svc_registry *registry,
    const struct svc_record *record)
{
	struct svc_record_list list = {0};
	struct svc_error err = {.text = ""};
	int64_t from_us = svc_now_us();
	svc_err code;

	code = svc_registry_announce(registry, record, PROBE_TTL_MS, &err);
	if (step(doctor, "registry announce", from_us, code, &err,
		"took a node of ours") &&
	    !interrupted) {
		code = waited(doctor, &seen.created,
		    "the watch did not tell of the node", &err);
		if (!interrupted)
			step(doctor, "registry watch", from_us, code, &err,
			    "told of the node");
		from_us = svc_now_us();
		code = svc_registry_lookup(registry, record->name, &list, &err);
		svc_record_list_fini(&list);
		step(doctor, "registry lookup", from_us, code, &err,
		    "found the node");
	}
	/* Whatever happened: nothing is left behind. */
	bool created = has_seen(&seen.created);
	bool announced = code == SVC_OK || created;
	from_us = svc_now_us();
	code = svc_registry_withdraw(registry, record, &err);
	if (!announced)
		return;
	if (!step(doctor, "registry withdraw", from_us, code, &err,
		"took the node away") ||
	    interrupted || !created)
		return;
	code = waited(doctor, &seen.removed,
	    "the watch did not tell that the node is gone", &err);
	if (!interrupted)
		step(doctor, "registry gone", from_us, code, &err,
		    "the watch told that the node is gone");
}

static void
check_registry(struct doctor *doctor)
{
	struct svc_registry *registry = svc_registry_of(doctor->tool->service);
	struct svc_error err = {.text = ""};
	struct svc_watch *watch = NULL;
	char uuid[37], name[32], id[80];
	int64_t from_us = svc_now_us();
	svc_err code;

	if (strcmp(doctor->options->registry, "static") == 0) {
		struct svc_record_list list = {0};

		/* Nothing is announced to a file. */
		code = svc_registry_list(registry, &list, &err);
		svc_record_list_fini(&list);
		step(doctor, "registry list", from_us, code, &err,
		    "the file is read");
		return;
	}
	svc_uuid(uuid);
	snprintf(name, sizeof(name), "svc-doctor-%.8s", uuid);
	snprintf(id, sizeof(id), "%s-%s", name, uuid);
	/* Port 9 discards; nobody is to dial it. */
	struct svc_node node = {.id = id, .address = "127.0.0.1:9"};
	struct svc_record record = {
	    .name = name, .version = "1", .nodes = &node, .n_nodes = 1};
	node.metadata = svc_headers_create();
	if (node.metadata != NULL)
		svc_headers_set(node.metadata, TOOL_MARK, "true");
	code =
	    svc_registry_watch(registry, name, on_change, NULL, &watch, &err);
	if (code != SVC_OK)
		step(doctor, "registry watch", from_us, code, &err, "");
	else
		probe(doctor, registry, &record);
	svc_registry_unwatch(watch);
	svc_headers_destroy(node.metadata);
}

/* -------------------------------------------------- own address and events */

static bool
is_loopback(const char *host)
{
	return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
	       strcmp(host, "localhost") == 0;
}

static void
check_own_address(struct doctor *doctor)
{
	svc_err code = svc_start(doctor->tool->service);
	const char *own = doctor->options->advertise;
	char host[256], why[200] = "";
	double ms = -1;
	uint16_t port;
	bool dialled;

	if (own == NULL || own[0] == '\0') {
		doctor_say(doctor,
		    code == SVC_E_INVAL ? DOCTOR_FAILED : DOCTOR_WARNING,
		    "own address", -1,
		    "see --address and --advertise; while a service of this "
		    "host has the port, leave --address out.",
		    "%s", svc_error_text(doctor->tool->service));
		return;
	}
	if (code != SVC_OK ||
	    svc_address_split(own, host, sizeof(host), &port, NULL) != SVC_OK ||
	    strcmp(doctor->options->transport, "memory") == 0) {
		doctor_say(doctor, DOCTOR_SKIPPED, "own address", -1, NULL,
		    "a service here is told to others as %s; not dialled: %s",
		    own,
		    code != SVC_OK ? svc_error_text(doctor->tool->service)
				   : "it is none of the network");
		return;
	}
	dialled = doctor_dial(own, why, sizeof(why), &ms);
	if (!dialled)
		doctor_say(doctor, DOCTOR_WARNING, "own address", ms,
		    "others may not reach services here either: choose what "
		    "they are told by --advertise=HOST or "
		    "--advertise=INTERFACE.",
		    "a service here is told to others as %s, which cannot be "
		    "dialled from here: %s",
		    own, why);
	else if (is_loopback(host) && doctor->elsewhere)
		doctor_say(doctor, DOCTOR_WARNING, "own address", ms,
		    "nobody on another host can dial that: give "
		    "--advertise=HOST or --advertise=INTERFACE, and an "
		    "--address that is not of the loopback.",
		    "a service here is told to others as %s, while the "
		    "registry is beyond this host",
		    own);
	else
		doctor_say(doctor, DOCTOR_OK, "own address", ms, NULL,
		    "a service here is told to others as %s, which can be "
		    "dialled from here",
		    own);
}

static svc_err
on_event(const char *topic, const struct svc_message *message, void *arg)
{
	(void)topic;
	(void)message;
	(void)arg;
	see(&seen.heard);
	return SVC_OK;
}

static void
check_broker(struct doctor *doctor)
{
	struct svc_subscription *subscription = NULL;
	struct svc_message event = {"application/json", "{}", 2, NULL};
	struct svc_error err = {.text = ""};
	int64_t from_us = svc_now_us();
	char uuid[37], topic[32];
	svc_err code;

	svc_uuid(uuid);
	snprintf(topic, sizeof(topic), "svc-doctor-%.8s", uuid);
	code = svc_broker_subscribe(
	    doctor->broker, topic, NULL, on_event, NULL, &subscription, &err);
	/* Where there is no connection yet it is only remembered: what comes
	 * next tells. */
	if (code != SVC_OK) {
		step(doctor, "broker subscribe", from_us, code, &err, "");
		return;
	}
	if (!interrupted) {
		code = svc_publish_detail(
		    doctor->tool->service, topic, &event, &err);
		step(doctor, "broker publish", from_us, code, &err,
		    "took an event");
	}
	if (code == SVC_OK && !interrupted) {
		code = waited(
		    doctor, &seen.heard, "the event did not come back", &err);
		if (!interrupted)
			step(doctor, "broker event", from_us, code, &err,
			    "the event came back");
	}
	svc_broker_unsubscribe(subscription);
}

/* What the brokers without a server are. */
static void
explain_broker(struct doctor *doctor, bool registry_well)
{
	const char *name = doctor->options->broker;

	if (strcmp(name, "memory") == 0)
		doctor_say(doctor, DOCTOR_WARNING, "broker memory", -1,
		    "take --broker=p2p or --broker=mqtt where other programs "
		    "are to get the events.",
		    "events stay within one process");
	else if (!registry_well)
		doctor_say(doctor, DOCTOR_SKIPPED, "broker p2p", -1, NULL,
		    "has no server: subscribers are found through the "
		    "registry, which fails");
	else
		doctor_say(doctor, DOCTOR_OK, "broker p2p", -1, NULL,
		    "has no server: subscribers are found through the "
		    "registry");
}

/* ------------------------------------------------------------------- main */

static void
examine(struct doctor *doctor)
{
	const struct svc_options *o = doctor->options;
	bool p2p = strcmp(o->broker, "p2p") == 0, registry_well;
	bool reached = true;

	check_settings(doctor);
	doctor_say(doctor, DOCTOR_OK, "plugins", -1, NULL,
	    "registry %s, broker %s and transport %s are found and loaded",
	    o->registry, o->broker, o->transport);
	if (strcmp(o->registry, "mdns") == 0)
		doctor_mdns(doctor);
	else if (strcmp(o->registry, "memory") == 0)
		doctor_say(doctor, DOCTOR_WARNING, "registry memory", -1,
		    "take --registry=mdns, or one with a server.",
		    "services are found within one process only");
	else if (strcmp(o->registry, "static") != 0)
		reached = doctor_addresses(
		    doctor, "registry", o->registry, o->registry_address);
	if (!reached && !interrupted)
		doctor_say(doctor, DOCTOR_SKIPPED, "registry announce", -1,
		    NULL, "not tried: none of its addresses is reached");
	else if (!interrupted)
		check_registry(doctor);
	registry_well = doctor->n_failed == 0;
	if (!interrupted)
		check_own_address(doctor);
	if (interrupted)
		return;
	if (p2p || strcmp(o->broker, "memory") == 0)
		explain_broker(doctor, registry_well);
	else
		doctor_addresses(
		    doctor, "broker", o->broker, o->broker_address);
	if (!interrupted && (registry_well || !p2p))
		check_broker(doctor);
}

int
run_doctor(struct tool *tool)
{
	struct doctor doctor = {
	    .tool = tool,
	    .options = svc_options_of(tool->service),
	    .broker = svc_broker_of(tool->service),
	    .limit_ms = tool->timeout_ms > 0 ? tool->timeout_ms : 5000,
	};
	int status = EXIT_OK;

	svc_buf_init(&doctor.json, (size_t)1 << 20);
	svc_buf_puts(&doctor.json, "{\"checks\":[");
	svc_cond_init(&seen.changed);
	catch_signals();
	if (tool->unfit != NULL)
		doctor_say(&doctor, DOCTOR_FAILED, "settings", -1,
		    "correct the flag, variable or file that is named; plugins "
		    "are looked for in the folders of SVC_PLUGIN_PATH too.",
		    "%s", tool->unfit);
	else
		examine(&doctor);
	svc_buf_printf(&doctor.json, "],\"warnings\":%d,\"failed\":%d%s}",
	    doctor.n_warnings, doctor.n_failed,
	    interrupted ? ",\"interrupted\":true" : "");
	if (tool->json)
		status = tool_print_line(&doctor.json);
	else
		svc_buf_fini(&doctor.json);
	if (interrupted)
		fprintf(stderr,
		    "svc: interrupted; what was announced is withdrawn\n");
	return status == EXIT_OK && (doctor.n_failed > 0 || interrupted)
		   ? EXIT_FAILED
		   : status;
}
