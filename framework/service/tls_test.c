/* SPDX-License-Identifier: Apache-2.0 */
/* Services over TLS: settings, what the registry says, who is whom. */
#include "service_test.h"
#include "support/pki.h"

static struct test_pki pki;

static svc_err
tell_name(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(
	    call, rsp, "text/plain", "%s", svc_call_identity(call));
}

/* Lets only the head in. */
static svc_err
only_head(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, svc_handler next, void *next_arg, void *arg)
{
	(void)arg;
	if (strcmp(svc_call_identity(call), "head") != 0)
		return svc_fail(call, SVC_E_DENIED, "\"%s\" may not ask",
		    svc_call_identity(call));
	return next(call, req, rsp, next_arg);
}

static struct svc_service *
make_with(const char *name, const char *certificate, const char *ca,
    const struct svc_option *more)
{
	struct svc_option list[8];
	size_t n = 0;
	if (certificate != NULL || ca != NULL)
		list[n++] = (struct svc_option)SVC_OPT_tls(
		    certificate != NULL
			? test_pki_path(&pki, certificate, "pem")
			: NULL,
		    certificate != NULL
			? test_pki_path(&pki, certificate, "key")
			: NULL,
		    ca != NULL ? test_pki_path(&pki, ca, "pem") : NULL);
	for (; more != NULL && more->kind != SVC_OPTION_END; more++)
		list[n++] = *more;
	list[n] = (struct svc_option)SVC_OPT_end();
	return make(name, list);
}

static svc_err
init_with(struct svc_service *service, const char *name, const char *value,
    const char *name2, const char *value2)
{
	char program[] = "program", flags[2][160];
	char *argv[] = {program, flags[0], flags[1], NULL};
	snprintf(flags[0], sizeof(flags[0]), "--%s=%s", name, value);
	if (name2 != NULL)
		snprintf(flags[1], sizeof(flags[1]), "--%s=%s", name2, value2);
	else
		argv[2] = NULL;
	return svc_init(service, name2 != NULL ? 3 : 2, argv);
}

static svc_err
ask(struct svc_service *from, struct svc_error *err, char *out, size_t size)
{
	struct svc_message rsp;
	svc_err code = svc_call(svc_client_of(from), "student", "Student.Name",
	    NULL, &rsp, retries(0), detail(err));
	if (code != SVC_OK)
		return code;
	snprintf(out, size, "%.*s", (int)rsp.len, (const char *)rsp.data);
	svc_message_free(&rsp);
	return SVC_OK;
}

static const char *
tls_in_record(struct svc_service *service, char *out, size_t size)
{
	struct svc_record_list list;
	assert_int_equal(svc_registry_lookup(
			     svc_registry_of(service), "student", &list, NULL),
	    SVC_OK);
	const char *said =
	    svc_headers_get(list.records[0]->nodes[0].metadata, "tls");
	snprintf(out, size, "%s", said != NULL ? said : "-");
	svc_record_list_fini(&list);
	return out;
}

static void
handlers_know_who_calls(void **state)
{
	(void)state;
	struct svc_error err = {0};
	char text[80];
	struct svc_service *server = make_with(
	    "student", "server", "ca", MORE(wrap_handler(only_head, NULL)));
	svc_handle(server, "Student.Name", tell_name, NULL);
	must_start(server);
	assert_string_equal(tls_in_record(server, text, sizeof(text)), "true");
	struct svc_service *head = make_with("head", "head", "ca", NULL);
	assert_int_equal(svc_init(head, 0, NULL), SVC_OK);
	assert_int_equal(ask(head, &err, text, sizeof(text)), SVC_OK);
	assert_string_equal(text, "head");
	struct svc_service *pupil = make_with("pupil", "pupil", "ca", NULL);
	assert_int_equal(svc_init(pupil, 0, NULL), SVC_OK);
	assert_int_equal(ask(pupil, &err, text, sizeof(text)), SVC_E_DENIED);
	assert_string_equal(err.text, "\"pupil\" may not ask");
	/* Without a certificate the call does not even get there. */
	struct svc_service *nobody = make_with("nobody", NULL, "ca", NULL);
	assert_int_equal(svc_init(nobody, 0, NULL), SVC_OK);
	assert_int_equal(
	    ask(nobody, &err, text, sizeof(text)), SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "demands a certificate"));
	svc_free(nobody);
	svc_free(pupil);
	svc_free(head);
	svc_free(server);
}

static void
callers_may_be_anonymous(void **state)
{
	(void)state;
	struct svc_error err = {0};
	char text[80] = "?";
	struct svc_service *server = make_with("student", "server", "ca", NULL);
	svc_handle(server, "Student.Name", tell_name, NULL);
	assert_int_equal(
	    init_with(server, "tls_client_auth", "none", NULL, NULL), SVC_OK);
	must_start(server);
	struct svc_service *nobody = make_with("nobody", NULL, "ca", NULL);
	assert_int_equal(svc_init(nobody, 0, NULL), SVC_OK);
	assert_int_equal(ask(nobody, &err, text, sizeof(text)), SVC_OK);
	assert_string_equal(text, "");
	svc_free(nobody);
	svc_free(server);
}

static void
the_record_tells_who_can_call(void **state)
{
	(void)state;
	struct svc_error err = {0};
	char text[80];
	struct svc_service *server = make_with("student", "server", NULL, NULL);
	svc_handle(server, "Student.Name", tell_name, NULL);
	must_start(server);
	struct svc_service *bare = make_with("bare", NULL, NULL, NULL);
	assert_int_equal(svc_init(bare, 0, NULL), SVC_OK);
	assert_int_equal(
	    ask(bare, &err, text, sizeof(text)), SVC_E_UNAVAILABLE);
	assert_non_null(strstr(
	    err.text, "speaks TLS, this client does not: give --tls_ca"));
	svc_free(bare);
	svc_free(server);

	set_registry(NULL);
	server = make_with("student", NULL, NULL, NULL);
	svc_handle(server, "Student.Name", tell_name, NULL);
	must_start(server);
	assert_string_equal(tls_in_record(server, text, sizeof(text)), "-");
	struct svc_service *client = make_with("client", NULL, "ca", NULL);
	assert_int_equal(svc_init(client, 0, NULL), SVC_OK);
	assert_int_equal(
	    ask(client, &err, text, sizeof(text)), SVC_E_UNAVAILABLE);
	assert_non_null(
	    strstr(err.text, "does not speak TLS, which this client demands"));
	svc_free(client);
	svc_free(server);
}

static svc_err
count_event(struct svc_event *event, void *arg)
{
	(void)event;
	gate_add(arg);
	return SVC_OK;
}

static void
events_of_p2p_go_over_tls(void **state)
{
	(void)state;
	struct gate gate;
	gate_init(&gate);
	struct svc_service *to =
	    make_with("student", "server", "ca", MORE(broker(p2p)));
	svc_subscribe(to, "news", count_event, &gate);
	must_start(to);
	struct svc_service *from =
	    make_with("head", "server", "ca", MORE(broker(p2p)));
	must_start(from);
	struct svc_message news = {.data = "x", .len = 1};
	assert_int_equal(svc_publish(from, "news", &news), SVC_OK);
	gate_wait(&gate, 1);
	svc_free(from);
	svc_free(to);
}

static void
settings_that_do_not_fit_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *name, *value, *name2, *value2, *text;
	} cases[] = {
	    {"tls_cert", "a.pem", NULL, NULL,
		"tls_cert is set and tls_key is not"},
	    {"tls_key", "a.key", "tls_ca", "ca.pem",
		"tls_key is set and tls_cert is not"},
	    {"tls_name", "student", NULL, NULL, "tls_name is set, but nothing"},
	    {"tls_ca", "system", "tls_name", "", "tls_name is empty"},
	    {"tls_client_auth", "none", NULL, NULL,
		"tls_client_auth is set, but nothing"},
	    {"tls_client_auth", "required", "tls_ca", "system",
		"give tls_ca a file"},
	    {"tls_ca", "/nowhere/ca.pem", NULL, NULL,
		"\"/nowhere/ca.pem\" (--tls_ca): No such file or directory"},
	    {"tls_cert", "/nowhere/a.pem", "tls_key", "/nowhere/a.key",
		"\"/nowhere/a.pem\" (--tls_cert): No such file or directory"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_service *s = make("student", NULL);
		assert_int_equal(init_with(s, cases[i].name, cases[i].value,
				     cases[i].name2, cases[i].value2),
		    SVC_E_INVAL);
		assert_int_equal(svc_exit_status(SVC_E_INVAL), 2);
		if (strstr(svc_error_text(s), cases[i].text) == NULL)
			fail_msg("\"%s\" does not say \"%s\"",
			    svc_error_text(s), cases[i].text);
		svc_free(s);
	}
	/* Who has only a CA can call and not listen. */
	struct svc_service *s = make_with("student", NULL, "ca", NULL);
	assert_int_equal(svc_start(s), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "--tls_cert"));
	svc_free(s);
}

static svc_err
tell_node(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	return svc_reply_text(call, rsp, "text/plain", "%s", (char *)arg);
}

/* It ends the connection before the handshake, so nothing has been run. */
static void
a_node_without_room_for_connections_is_passed_over(void **state)
{
	(void)state;
	char full_id[] = "full", roomy_id[] = "roomy";
	struct svc_service *full =
	    make_with("student", "server", "ca", MORE(id("full")));
	svc_handle(full, "Student.Name", tell_node, full_id);
	assert_int_equal(
	    init_with(full, "max_connections", "1", NULL, NULL), SVC_OK);
	must_start(full);
	struct svc_error err = {0};
	char text[80];
	struct svc_service *first = make_with("first", "head", "ca", NULL);
	assert_int_equal(svc_init(first, 0, NULL), SVC_OK);
	assert_int_equal(ask(first, &err, text, sizeof(text)), SVC_OK);
	struct svc_service *roomy =
	    make_with("student", "server", "ca", MORE(id("roomy")));
	svc_handle(roomy, "Student.Name", tell_node, roomy_id);
	must_start(roomy);
	for (int i = 0; i < 10; i++) {
		struct svc_service *c = make_with(
		    "caller", "head", "ca", MORE(selector(round_robin)));
		assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
		for (int k = 0; k < 2; k++) {
			struct svc_message rsp;
			svc_err code = svc_call(svc_client_of(c), "student",
			    "Student.Name", NULL, &rsp, timeout_ms(PATIENCE_MS),
			    detail(&err));
			if (code != SVC_OK)
				fail_msg("%s", err.text);
			assert_string_equal(rsp.data, "roomy");
			svc_message_free(&rsp);
		}
		svc_free(c);
	}
	svc_free(first);
	svc_free(roomy);
	svc_free(full);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(handlers_know_who_calls),
	    TEST(callers_may_be_anonymous),
	    TEST(the_record_tells_who_can_call),
	    TEST(events_of_p2p_go_over_tls),
	    TEST(settings_that_do_not_fit_are_refused),
	    TEST(a_node_without_room_for_connections_is_passed_over),
	};
	static const struct CMUnitTest connected[] = {
	    TEST(a_node_without_room_for_connections_is_passed_over),
	};
	static const char *const names[] = {"server", "head", "pupil"};
	transport_name = "tcp";
	if (!test_pki_create(&pki))
		return 1;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct test_certificate certificate = {.name = names[i],
		    .issuer = "ca",
		    .san = i == 0 ? "IP:127.0.0.1" : NULL};
		if (!test_pki_issue(&pki, &certificate))
			return 1;
	}
	int failed = cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
	transport_name = "nng";
	if (has_transport("nng"))
		failed +=
		    cmocka_run_group_tests_name("nng", connected, NULL, NULL);
	test_pki_remove(&pki);
	return failed;
}
