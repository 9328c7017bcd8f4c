/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_LINKS_H
#define MDNS_LINKS_H

#include "mdns_net.h"

/** A socket at the group's port on this interface; -1 with the reason. */
int mdns_link_open(const struct mdns_net *net, const struct mdns_link *link,
    struct svc_error *err);

#endif
