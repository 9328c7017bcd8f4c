/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_name.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LABEL_MAX 63
#define SHORT_PREFIX 40

uint64_t
mdns_hash(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

bool
mdns_labels_ok(const char *text, size_t max)
{
	if (strlen(text) > max)
		return false;
	for (;;) {
		size_t len = strcspn(text, ".");
		if (len == 0 || len > LABEL_MAX)
			return false;
		for (size_t i = 0; i < len; i++) {
			unsigned char c = (unsigned char)text[i];
			if (c <= ' ' || c == 0x7f)
				return false;
		}
		if (text[len] == '\0')
			return true;
		text += len + 1;
	}
}

void
mdns_shorten(const char *text, char ret_label[MDNS_LABEL_SIZE])
{
	size_t n = 0;
	for (; n < SHORT_PREFIX && text[n] != '\0'; n++) {
		unsigned char c = (unsigned char)text[n];
		bool plain = c > ' ' && c < 0x7f && c != '.';
		ret_label[n] = plain ? text[n] : '-';
	}
	snprintf(ret_label + n, MDNS_LABEL_SIZE - n, "~%016" PRIx64,
	    mdns_hash(MDNS_HASH_START, text, strlen(text)));
}

bool
mdns_ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);
	return n >= m && strcmp(text + n - m, end) == 0;
}

/* A service's labels without the domain. Names that are DNS-SD's own are
 * shortened too, so that the nodes of such a service are not taken for lists.
 */
static void
service_labels(const char *service, char ret_labels[MDNS_NAME_SIZE])
{
	bool reserved = strcmp(service, "_services") == 0 ||
			mdns_ends_with(service, "._services") ||
			mdns_ends_with(service, "._dns-sd._udp");
	if (!reserved && mdns_labels_ok(service, 130))
		snprintf(ret_labels, MDNS_NAME_SIZE, "%s", service);
	else
		mdns_shorten(service, ret_labels);
}

void
mdns_service_name(const char *service, char ret_name[MDNS_NAME_SIZE])
{
	char labels[MDNS_NAME_SIZE];
	service_labels(service, labels);
	snprintf(ret_name, MDNS_NAME_SIZE, "%.*s." MDNS_DOMAIN, 140, labels);
}

void
mdns_list_name(const char *service, char ret_name[MDNS_NAME_SIZE])
{
	char labels[MDNS_NAME_SIZE];
	service_labels(service, labels);
	snprintf(ret_name, MDNS_NAME_SIZE, "%.*s." MDNS_LIST, 140, labels);
}

void
mdns_instance_name(
    const char *service, const char *id, char ret_name[MDNS_NAME_SIZE])
{
	char owner[MDNS_NAME_SIZE], label[MDNS_LABEL_SIZE];
	mdns_service_name(service, owner);
	if (!mdns_labels_ok(id, MDNS_NAME_SIZE - 2 - strlen(owner))) {
		mdns_shorten(id, label);
		id = label;
	}
	/* The owner's part is shorter than that; saying so quiets gcc. */
	snprintf(ret_name, MDNS_NAME_SIZE, "%s.%.*s", id, 160, owner);
}

/* One label of `text`, in which a dot cannot stand: it becomes a line. */
static void
label_of(const char *text, char ret_label[MDNS_LABEL_SIZE])
{
	size_t n = 0;
	for (; n < LABEL_MAX - 1 && text[n] != '\0'; n++)
		ret_label[n] = text[n] == '.' ? '-' : text[n];
	ret_label[n] = '\0';
}

/* DNS knows no case but ids do, so a label with capitals ends in a hash too. */
void
mdns_sd_instance_name(
    const char *service, const char *id, char ret_name[MDNS_NAME_SIZE])
{
	char full[400], label[MDNS_LABEL_SIZE];
	int n = snprintf(full, sizeof(full), "%s@%s", id, service);
	bool plain = n > 0 && n <= LABEL_MAX && mdns_labels_ok(full, LABEL_MAX);
	for (const char *p = full; *p != '\0'; p++)
		plain = plain && *p != '.' && !(*p >= 'A' && *p <= 'Z');
	if (plain)
		memcpy(label, full, (size_t)n + 1);
	else
		mdns_shorten(full, label);
	snprintf(ret_name, MDNS_NAME_SIZE, "%s." MDNS_SD_TYPE, label);
}

void
mdns_sd_subtype_name(const char *service, char ret_name[MDNS_NAME_SIZE])
{
	char label[MDNS_LABEL_SIZE];
	label_of(service, label);
	snprintf(ret_name, MDNS_NAME_SIZE, "_%s._sub." MDNS_SD_TYPE, label);
}

void
mdns_sd_host_name(
    int family, const uint8_t ip[16], char ret_name[MDNS_NAME_SIZE])
{
	char host[INET6_ADDRSTRLEN];
	if (inet_ntop(family, ip, host, sizeof(host)) == NULL)
		host[0] = '\0';
	for (char *p = host; *p != '\0'; p++)
		if (*p == '.' || *p == ':')
			*p = '-';
	snprintf(ret_name, MDNS_NAME_SIZE, "svc-%s." MDNS_SD_DOMAIN, host);
}

void
mdns_address_format(
    int family, const uint8_t ip[16], uint16_t port, char ret_text[64])
{
	char host[INET6_ADDRSTRLEN];
	if (inet_ntop(family, ip, host, sizeof(host)) == NULL)
		host[0] = '\0';
	snprintf(ret_text, 64, family == AF_INET6 ? "[%s]:%u" : "%s:%u", host,
	    (unsigned)port);
}
