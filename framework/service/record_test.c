/* SPDX-License-Identifier: Apache-2.0 */
/* What a service says of itself in the registry, and messages by their
 * descriptors. */
#include "service_test.h"

#include <codec_types.pb-c.h>

static svc_err
rename_leaf(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	struct ProtobufCMessage *message;
	svc_err code = svc_read(call, req, &codec__leaf__descriptor, &message);
	if (code != SVC_OK)
		return code;
	Codec__Leaf *leaf = (Codec__Leaf *)message;
	Codec__Leaf answer = CODEC__LEAF__INIT;
	answer.name = svc_printf(call, "not %s", leaf->name);
	return svc_write(call, rsp, &answer.base);
}

static void
the_record_describes_the_endpoints(void **state)
{
	(void)state;
	struct svc_service *s = make("student", MORE(version("7")));
	svc_handle(s, "Student.Put", rename_leaf, NULL,
	    types(&codec__leaf__descriptor, &codec__everything__descriptor));
	svc_handle(s, "Student.Get", rename_leaf, NULL, idempotent(),
	    metadata("owner", "ann"));
	must_start(s);
	struct svc_record_list list;
	assert_int_equal(
	    svc_registry_lookup(svc_registry_of(s), "student", &list, NULL),
	    SVC_OK);
	const struct svc_record *record = list.records[0];
	assert_string_equal(record->version, "7");
	assert_int_equal(record->n_endpoints, 2);
	const struct svc_endpoint *get = &record->endpoints[0];
	assert_string_equal(get->name, "Student.Get");
	assert_string_equal(
	    svc_headers_get(get->metadata, "idempotent"), "true");
	assert_string_equal(svc_headers_get(get->metadata, "owner"), "ann");
	assert_null(get->request);
	const struct svc_endpoint *put = &record->endpoints[1];
	assert_string_equal(put->name, "Student.Put");
	assert_null(svc_headers_get(put->metadata, "idempotent"));

	const struct svc_value *leaf = put->request;
	assert_string_equal(leaf->name, "Leaf");
	assert_string_equal(leaf->type, "Leaf");
	assert_int_equal(leaf->n_values, 3);
	assert_string_equal(leaf->values[0].name, "name");
	assert_string_equal(leaf->values[0].type, "string");
	assert_string_equal(leaf->values[1].name, "next");
	assert_string_equal(leaf->values[1].type, "Leaf");
	assert_int_equal(leaf->values[1].n_values, 3);
	/* Three deep and no further. */
	assert_string_equal(leaf->values[1].values[1].type, "Leaf");
	assert_int_equal(leaf->values[1].values[1].n_values, 0);
	assert_string_equal(leaf->values[2].type, "[]Leaf");
	assert_int_equal(leaf->values[2].n_values, 0);

	const struct {
		const char *name, *type;
	} wanted[] = {{"int32_field", "int32"}, {"sfixed64_field", "int64"},
	    {"fixed32_field", "uint32"}, {"uint64_field", "uint64"},
	    {"float_field", "float32"}, {"double_field", "float64"},
	    {"bool_field", "bool"}, {"enum_field", "Level"},
	    {"bytes_field", "[]uint8"}, {"int32_list", "[]int32"},
	    {"string_list", "[]string"}};
	size_t found = 0;
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		for (size_t k = 0; k < put->response->n_values; k++) {
			const struct svc_value *v = &put->response->values[k];
			if (strcmp(v->name, wanted[i].name) != 0)
				continue;
			assert_string_equal(v->type, wanted[i].type);
			found++;
		}
	}
	assert_int_equal(found, sizeof(wanted) / sizeof(wanted[0]));
	svc_record_list_fini(&list);
	svc_free(s);
}

static void
messages_by_their_descriptor(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Rename", rename_leaf, NULL);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	static const char json[] = "{\"name\":\"ann\"}";
	struct svc_message req = {.data = json, .len = strlen(json)}, rsp;
	struct svc_error err = {0};
	/* The type of a message that says none is that of the service. */
	svc_err code = svc_call(
	    client, "student", "Student.Rename", &req, &rsp, detail(&err));
	assert_string_equal(err.text, "");
	assert_int_equal(code, SVC_OK);
	assert_string_equal(rsp.content_type, "application/json");
	assert_non_null(strstr(rsp.data, "\"not ann\""));
	svc_message_free(&rsp);

	/* The same handler in another language. */
	req.content_type = "application/protobuf";
	req.data = "\x0a\x03"
		   "bob";
	req.len = 5;
	assert_int_equal(
	    svc_call(client, "student", "Student.Rename", &req, &rsp), SVC_OK);
	assert_string_equal(rsp.content_type, "application/protobuf");
	assert_int_equal(rsp.len, 9);
	assert_memory_equal(rsp.data,
	    "\x0a\x07"
	    "not bob",
	    9);
	svc_message_free(&rsp);

	req.data = "\xff";
	req.len = 1;
	assert_int_equal(svc_call(client, "student", "Student.Rename", &req,
			     &rsp, detail(&err)),
	    SVC_E_INVAL);
	assert_string_not_equal(err.text, "invalid argument");
	req.content_type = "image/png";
	assert_int_equal(svc_call(client, "student", "Student.Rename", &req,
			     &rsp, detail(&err)),
	    SVC_E_UNIMPLEMENTED);
	assert_non_null(strstr(err.text, "image/png"));
	assert_non_null(strstr(err.text, "application/json"));
	svc_free(s);
}

static void
hosts_are_advertised_by_an_address_of_theirs(void **state)
{
	(void)state;
	const struct {
		const char *bound, *advertise, *part;
	} cases[] = {
	    {"127.0.0.1:0", NULL, "127.0.0.1:"},
	    {"127.0.0.1:0", "example.org", "example.org:"},
	    {"127.0.0.1:0", "example.org:99", "example.org:99"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_option more[] = {SVC_OPT_address(cases[i].bound),
		    SVC_OPT_end(), SVC_OPT_end()};
		if (cases[i].advertise != NULL)
			more[1] = (struct svc_option)SVC_OPT_advertise(
			    cases[i].advertise);
		struct svc_service *s = make("student", more);
		must_start(s);
		const struct svc_options *o = svc_options_of(s);
		assert_int_equal(
		    strncmp(o->advertise, cases[i].part, strlen(cases[i].part)),
		    0);
		/* Without a port of its own it has the one that was bound. */
		if (cases[i].advertise == NULL ||
		    strchr(cases[i].advertise, ':') == NULL)
			assert_string_equal(strrchr(o->advertise, ':'),
			    strrchr(o->address, ':'));
		svc_free(s);
	}
	/* Every interface: others are told one that can be dialled. */
	struct svc_service *s = make("student", MORE(address(":0")));
	svc_handle(s, "Student.Rename", rename_leaf, NULL);
	must_start(s);
	const struct svc_options *o = svc_options_of(s);
	assert_string_equal(
	    strrchr(o->advertise, ':'), strrchr(o->address, ':'));
	assert_int_not_equal(strncmp(o->advertise, "0.0.0.0", 7), 0);
	assert_int_not_equal(o->advertise[0], '[');
	assert_int_not_equal(o->advertise[0], ':');
	static const char json[] = "{\"name\":\"ann\"}";
	struct svc_message req = {.data = json, .len = strlen(json)};
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Rename", &req, NULL),
	    SVC_OK);
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_record_describes_the_endpoints),
	    TEST(messages_by_their_descriptor),
	    TEST(hosts_are_advertised_by_an_address_of_theirs),
	};
	transport_name = "tcp";
	return cmocka_run_group_tests(tests, NULL, NULL);
}
