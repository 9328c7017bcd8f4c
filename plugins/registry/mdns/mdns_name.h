/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_NAME_H
#define MDNS_NAME_H

#include "mdns_packet.h"

/**
 * The names of services and nodes, as dotted texts, in the two worlds a node
 * lives in. Pure functions.
 *
 * In go-micro's domain a service "a.b" owns "a.b.micro", its node "x" is
 * "x.a.b.micro", and "a.b._services.micro" lists it. What cannot be labels
 * (one longer than 63 bytes, an empty one) is replaced by one short label that
 * begins like it and ends in a hash; the TXT data then has the full id.
 *
 * For DNS-SD the node is "x@a.b._svc._tcp.local", as one label, which is
 * shortened in the same way when it has dots, capitals or is too long; its
 * host is named after its address. So equal names always mean the same thing,
 * and nobody needs to be asked whether a name is free.
 */
#define MDNS_DOMAIN "micro"
#define MDNS_LIST "_services." MDNS_DOMAIN
#define MDNS_ENUMERATION "_services._dns-sd._udp." MDNS_DOMAIN
#define MDNS_SD_DOMAIN "local"
#define MDNS_SD_TYPE "_svc._tcp." MDNS_SD_DOMAIN
#define MDNS_SD_ENUMERATION "_services._dns-sd._udp." MDNS_SD_DOMAIN

/** The longest label and its NUL. */
#define MDNS_LABEL_SIZE 64

void mdns_service_name(const char *service, char ret_name[MDNS_NAME_SIZE]);
void mdns_instance_name(
    const char *service, const char *id, char ret_name[MDNS_NAME_SIZE]);
void mdns_list_name(const char *service, char ret_name[MDNS_NAME_SIZE]);

void mdns_sd_instance_name(
    const char *service, const char *id, char ret_name[MDNS_NAME_SIZE]);
/** Lists the nodes of one service only. Two services may share it. */
void mdns_sd_subtype_name(const char *service, char ret_name[MDNS_NAME_SIZE]);
/** AF_INET or AF_INET6. */
void mdns_sd_host_name(
    int family, const uint8_t ip[16], char ret_name[MDNS_NAME_SIZE]);

/* ------------------------------------------------- what names are made with */

#define MDNS_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t mdns_hash(uint64_t h, const void *data, size_t len);
/** Whether a text of at most `max` bytes can stand as labels as it is. */
bool mdns_labels_ok(const char *text, size_t max);
/** One label that begins like the text and ends in its hash. */
void mdns_shorten(const char *text, char ret_label[MDNS_LABEL_SIZE]);
bool mdns_ends_with(const char *text, const char *end);
/** "1.2.3.4:5", "[::1]:5" */
void mdns_address_format(
    int family, const uint8_t ip[16], uint16_t port, char ret_text[64]);

#endif
