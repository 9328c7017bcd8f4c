/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_PKI_H
#define SVC_TEST_SUPPORT_PKI_H

#include <stdbool.h>

/**
 * A certificate authority for tests, in a scratch folder. Whoever holds a
 * "name" here has the files DIR/name.pem and DIR/name.key.
 */
struct test_pki {
	char dir[64];
};

struct test_certificate {
	const char *name;
	const char *issuer; /* the name of one made before; NULL: itself */
	const char *cn;     /* common name; NULL: `name`; "": none */
	const char *san;    /* "DNS:student,IP:127.0.0.1"; NULL: none */
	bool ca;            /* may issue others */
	/* Days from now; both 0: from yesterday until tomorrow. */
	int from_days, until_days;
};

/** Makes the folder with a CA "ca". False with the reason on stderr. */
bool test_pki_create(struct test_pki *pki);
/** Makes key and certificate, replacing what had the name: each file appears
 * whole. */
bool test_pki_issue(
    struct test_pki *pki, const struct test_certificate *certificate);
/** NAME.pem becomes what OTHER.pem is, whole at once. */
bool test_pki_copy(
    const struct test_pki *pki, const char *other, const char *name);
/** The path of NAME.pem or NAME.key in one of 16 static places. */
const char *test_pki_path(
    const struct test_pki *pki, const char *name, const char *ending);
/** Removes the folder and all that is in it. */
void test_pki_remove(struct test_pki *pki);

#endif
