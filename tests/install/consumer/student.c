/* SPDX-License-Identifier: Apache-2.0 */
/* Options are bare words that leave the program's own names alone, and a
 * plugin that came with the library is found by its name. */
#include <svc/svc.h>

#include <stdio.h>
#include <string.h>

static svc_err
get(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	return svc_reply_text(call, rsp, "text/plain", "%s", (const char *)arg);
}

int
main(int argc, char *argv[])
{
	char name[] = "Ada";
	int ttl = 3;

	struct svc_service *s =
	    svc_new(name("student"), registry(etcd), ttl(10));
	if (svc_handle(s, "Student.Get", get, name) != SVC_OK ||
	    svc_handle(s, "Student.List", get, name, idempotent(), limit(2)) !=
		SVC_OK ||
	    svc_init(s, argc, argv) != SVC_OK) {
		fprintf(stderr, "%s\n", svc_error_text(s));
		return 1;
	}
	const struct svc_options *o = svc_options_of(s);
	int bad = strcmp(o->name, "student") != 0 ||
		  strcmp(o->registry, "etcd") != 0 || o->ttl_ms != 10000 ||
		  ttl != 3 || strcmp(name, "Ada") != 0 ||
		  strcmp(svc_registry_name(svc_registry_of(s)), "etcd") != 0;
	printf("%s at %s, ttl %lld ms\n", o->name, o->registry,
	    (long long)o->ttl_ms);
	svc_free(s);

	struct svc_service *plain = svc_new();
	bad |= plain == NULL;
	svc_free(plain);
	return bad;
}
