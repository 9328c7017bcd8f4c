/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_PKI_H
#define SVC_TEST_SUPPORT_PKI_H

#include <stdbool.h>
#include <stddef.h>

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
	const char *key;    /* "P-256" if NULL, "P-384", "ED25519", "RSA" */
	const char *key_of; /* the name of one whose key this has, too */
	const char *usage;  /* extended, as "clientAuth"; NULL: any */
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
/** FILE becomes these files in a row, whole at once; as a Windows program would
 * write it, with something said before each: if `foreign`. */
bool test_pki_join(const struct test_pki *pki, const char *file,
    const char *const *parts, size_t n, bool foreign);
/** The key of NAME encrypted by "word": LOCKED.key as OpenSSL writes it now,
 * or as it did formerly. */
bool test_pki_lock(const struct test_pki *pki, const char *name,
    const char *locked, bool formerly);
/** The path of NAME.pem or NAME.key in one of 16 static places. */
const char *test_pki_path(
    const struct test_pki *pki, const char *name, const char *ending);
/** Removes the folder and all that is in it. */
void test_pki_remove(struct test_pki *pki);

#endif
