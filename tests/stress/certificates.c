/* SPDX-License-Identifier: Apache-2.0 */
#include "certificates.h"

#include "stress.h"
#include "support/pki.h"

#include <stdio.h>

static struct test_pki pki;
static const struct test_certificate own = {
    .name = "server", .issuer = "ca", .san = "IP:127.0.0.1"};
static struct certificates paths;

bool
certificates_make(void)
{
	if (!test_pki_create(&pki))
		return false;
	snprintf(paths.cert, sizeof(paths.cert), "%s",
	    test_pki_path(&pki, own.name, "pem"));
	snprintf(paths.key, sizeof(paths.key), "%s",
	    test_pki_path(&pki, own.name, "key"));
	snprintf(paths.ca, sizeof(paths.ca), "%s",
	    test_pki_path(&pki, own.issuer, "pem"));
	return test_pki_issue(&pki, &own);
}

void
certificates_remove(void)
{
	test_pki_remove(&pki);
}

const struct certificates *
certificates_get(void)
{
	return &paths;
}

void
certificates_renew(void)
{
	STRESS_CHECK(test_pki_issue(&pki, &own));
}
