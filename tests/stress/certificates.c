/* SPDX-License-Identifier: Apache-2.0 */
#include "certificates.h"

#include "stress.h"
#include "support/pki.h"

#include <stdio.h>
#include <string.h>

/* nng's TLS knows no names that are addresses. */
#define NAMES "DNS:127.0.0.1,IP:127.0.0.1"

static struct test_pki pki;
/* mbedTLS, nng's, takes a third of a round's time to verify signatures of EC
 * keys under a sanitizer; those of RSA cost it little. */
static const struct test_certificate own[2] = {
    {.name = "server", .issuer = "ca", .san = NAMES},
    {.name = "rsa_server", .issuer = "rsa_ca", .san = NAMES, .rsa = true},
};
static struct certificates paths[2];

bool
certificates_make(void)
{
	static const struct test_certificate rsa_ca = {
	    .name = "rsa_ca", .ca = true, .rsa = true};
	bool good = test_pki_create(&pki) && test_pki_issue(&pki, &rsa_ca);
	for (int i = 0; i < 2 && good; i++) {
		const char *name = own[i].name, *ca = own[i].issuer;
		struct certificates *to = &paths[i];
		snprintf(to->cert, sizeof(to->cert), "%s",
		    test_pki_path(&pki, name, "pem"));
		snprintf(to->key, sizeof(to->key), "%s",
		    test_pki_path(&pki, name, "key"));
		snprintf(to->ca, sizeof(to->ca), "%s",
		    test_pki_path(&pki, ca, "pem"));
		good = test_pki_issue(&pki, &own[i]);
	}
	return good;
}

void
certificates_remove(void)
{
	test_pki_remove(&pki);
}

const struct certificates *
certificates_of(const char *transport)
{
	return &paths[strcmp(transport, "nng") == 0];
}

const struct certificates *
certificates_fresh(void)
{
	return &paths[0];
}

void
certificates_renew(void)
{
	STRESS_CHECK(test_pki_issue(&pki, &own[0]));
}
