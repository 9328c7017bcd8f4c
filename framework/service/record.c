/* SPDX-License-Identifier: Apache-2.0 */
/* The record of this service, as the registry gets it: go-micro's shape. */
#include "service.h"

#include <protobuf-c/protobuf-c.h>
#include <stdio.h>
#include <string.h>

/* Types are described this deep, as go-micro does. */
#define MAX_DEPTH 3

/* What the record points to and nobody else owns. */
struct svc_record_memory {
	struct svc_record_memory *next;
	struct svc_headers *headers;
	_Alignas(16) char space[];
};

static void *
take(struct svc_record_built *built, size_t size)
{
	struct svc_record_memory *memory =
	    svc_mem_calloc(1, sizeof(*memory) + size);
	if (memory == NULL)
		return NULL;
	memory->next = built->memory;
	built->memory = memory;
	return memory->space;
}

static struct svc_headers *
take_headers(struct svc_record_built *built)
{
	struct svc_headers *headers = svc_headers_create();
	if (headers == NULL || take(built, 0) == NULL) {
		svc_headers_destroy(headers);
		return NULL;
	}
	built->memory->headers = headers;
	return headers;
}

/* ------------------------------------------------------------------- types */

static const char *
scalar_name(const ProtobufCFieldDescriptor *field)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return "int32";
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return "int64";
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return "uint32";
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return "uint64";
	case PROTOBUF_C_TYPE_FLOAT:
		return "float32";
	case PROTOBUF_C_TYPE_DOUBLE:
		return "float64";
	case PROTOBUF_C_TYPE_BOOL:
		return "bool";
	case PROTOBUF_C_TYPE_STRING:
		return "string";
	case PROTOBUF_C_TYPE_BYTES:
		return "[]uint8";
	case PROTOBUF_C_TYPE_ENUM:
		return ((const ProtobufCEnumDescriptor *)field->descriptor)
		    ->short_name;
	case PROTOBUF_C_TYPE_MESSAGE:
		return ((const ProtobufCMessageDescriptor *)field->descriptor)
		    ->short_name;
	}
	return "";
}

static svc_err describe_fields(struct svc_record_built *built,
    const ProtobufCMessageDescriptor *type, int depth,
    struct svc_value *ret_value);

static svc_err
describe_field(struct svc_record_built *built,
    const ProtobufCFieldDescriptor *field, int depth, struct svc_value *value)
{
	value->name = field->name;
	const char *name = scalar_name(field);
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		size_t size = strlen(name) + 3;
		char *list = take(built, size);
		if (list == NULL)
			return SVC_E_NOMEM;
		snprintf(list, size, "[]%s", name);
		value->type = list;
		return SVC_OK;
	}
	value->type = name;
	if (field->type != PROTOBUF_C_TYPE_MESSAGE)
		return SVC_OK;
	return describe_fields(built, field->descriptor, depth + 1, value);
}

static svc_err
describe_fields(struct svc_record_built *built,
    const ProtobufCMessageDescriptor *type, int depth,
    struct svc_value *ret_value)
{
	if (depth >= MAX_DEPTH || type->n_fields == 0)
		return SVC_OK;
	struct svc_value *values =
	    take(built, type->n_fields * sizeof(*values));
	if (values == NULL)
		return SVC_E_NOMEM;
	for (unsigned i = 0; i < type->n_fields; i++) {
		svc_err code =
		    describe_field(built, &type->fields[i], depth, &values[i]);
		if (code != SVC_OK)
			return code;
	}
	ret_value->values = values;
	ret_value->n_values = type->n_fields;
	return SVC_OK;
}

static svc_err
describe(struct svc_record_built *built, const ProtobufCMessageDescriptor *type,
    const struct svc_value **ret_value)
{
	if (type == NULL)
		return SVC_OK;
	struct svc_value *value = take(built, sizeof(*value));
	if (value == NULL)
		return SVC_E_NOMEM;
	value->name = type->short_name;
	value->type = type->short_name;
	*ret_value = value;
	return describe_fields(built, type, 1, value);
}

/* --------------------------------------------------------------- endpoints */

static struct svc_endpoint *
add_endpoint(struct svc_record_built *built)
{
	if (built->n_endpoints == built->cap_endpoints) {
		size_t cap = built->cap_endpoints * 2 + 8;
		struct svc_endpoint *grown =
		    svc_mem_realloc(built->endpoints, cap * sizeof(*grown));
		if (grown == NULL)
			return NULL;
		built->endpoints = grown;
		built->cap_endpoints = cap;
	}
	struct svc_endpoint *endpoint = &built->endpoints[built->n_endpoints++];
	*endpoint = (struct svc_endpoint){0};
	return endpoint;
}

static svc_err
add_handler(
    struct svc_record_built *built, const struct svc_server_endpoint *from)
{
	if (from->internal)
		return SVC_OK;
	struct svc_endpoint *endpoint = add_endpoint(built);
	if (endpoint == NULL)
		return SVC_E_NOMEM;
	endpoint->name = from->name;
	endpoint->metadata = from->metadata;
	svc_err code = describe(built, from->request, &endpoint->request);
	if (code == SVC_OK)
		code = describe(built, from->response, &endpoint->response);
	return code;
}

static svc_err
add_subscriber(const char *topic, const char *queue, void *arg)
{
	struct svc_record_built *built = arg;
	struct svc_endpoint *endpoint = add_endpoint(built);
	size_t size = strlen(topic) + 1;
	char *name = take(built, size);
	struct svc_headers *metadata = take_headers(built);
	if (endpoint == NULL || name == NULL || metadata == NULL)
		return SVC_E_NOMEM;
	memcpy(name, topic, size);
	endpoint->name = name;
	endpoint->metadata = metadata;
	svc_err code = svc_headers_set(metadata, "subscriber", "true");
	if (code == SVC_OK)
		code = svc_headers_set(metadata, "topic", topic);
	if (code == SVC_OK && queue[0] != '\0')
		code = svc_headers_set(metadata, "queue", queue);
	return code;
}

/* -------------------------------------------------------------------- node */

static svc_err
add_node(struct svc_service *service, struct svc_record_built *built)
{
	const struct svc_values *v = &service->values;
	built->node_metadata = svc_headers_copy(v->metadata);
	if (built->node_metadata == NULL)
		return SVC_E_NOMEM;
	char weight[24];
	snprintf(weight, sizeof(weight), "%lld", (long long)v->weight);
	const struct {
		const char *name, *value;
	} own[] = {
	    {"transport", v->transport},
	    {"protocol", "svc"},
	    {"server", "svc"},
	    {"registry", v->registry},
	    {"broker", v->broker},
	    {"svc", "1"},
	    {"tls", svc_tls_served(service) ? "true" : NULL},
	    {"weight", v->weight != 1 ? weight : NULL},
	    {SVC_DRAINING,
		atomic_load(&service->registrar.draining) ? "true" : NULL},
	};
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		if (own[i].value == NULL)
			continue;
		svc_err code = svc_headers_set(
		    built->node_metadata, own[i].name, own[i].value);
		if (code != SVC_OK)
			return code;
	}
	built->node = (struct svc_node){
	    .id = v->id,
	    .address = service->advertised,
	    .metadata = built->node_metadata,
	};
	return SVC_OK;
}

svc_err
svc_record_build(
    struct svc_service *service, struct svc_record_built *ret_built)
{
	struct svc_record_built *built = ret_built;
	*built = (struct svc_record_built){0};
	svc_err code = add_node(service, built);
	const struct svc_server *server = service->server;
	for (size_t i = 0; code == SVC_OK && i < server->n_endpoints; i++)
		code = add_handler(built, server->endpoints[i]);
	if (code == SVC_OK)
		code = svc_events_each(service, add_subscriber, built);
	if (code != SVC_OK) {
		svc_record_built_fini(built);
		return code;
	}
	built->record = (struct svc_record){
	    .name = service->values.name,
	    .version = service->values.version,
	    .endpoints = built->endpoints,
	    .n_endpoints = built->n_endpoints,
	    .nodes = &built->node,
	    .n_nodes = 1,
	};
	return SVC_OK;
}

void
svc_record_built_fini(struct svc_record_built *built)
{
	struct svc_record_memory *memory = built->memory;
	while (memory != NULL) {
		struct svc_record_memory *next = memory->next;
		svc_headers_destroy(memory->headers);
		svc_mem_free(memory);
		memory = next;
	}
	svc_mem_free(built->endpoints);
	svc_headers_destroy(built->node_metadata);
	*built = (struct svc_record_built){0};
}
