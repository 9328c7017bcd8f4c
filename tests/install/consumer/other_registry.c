/* SPDX-License-Identifier: Apache-2.0 */
/* other_registry NAME [FLAG...]: starts a service whose registry is chosen by
 * --registry=NAME or, without flags, by the option registry(roster), and looks
 * itself up in it. */
#include <svc/svc.h>

#include <stdio.h>
#include <string.h>

int
main(int argc, char *argv[])
{
	if (argc < 2) {
		fprintf(stderr, "usage: %s NAME [FLAG...]\n", argv[0]);
		return 2;
	}
	const char *wanted = argv[1];
	bool by_flag = argc > 2;
	argv[1] = argv[0];

	struct svc_service *s;
	if (by_flag)
		s = svc_new(
		    name("student"), address("127.0.0.1:0"), broker(memory));
	else
		s = svc_new(name("student"), address("127.0.0.1:0"),
		    broker(memory), registry(roster));
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	int status = 1;
	if (svc_init(s, argc - 1, argv + 1) != SVC_OK ||
	    svc_start(s) != SVC_OK) {
		fprintf(stderr, "%s\n", svc_error_text(s));
		goto out;
	}
	struct svc_registry *registry = svc_registry_of(s);
	if (strcmp(svc_registry_name(registry), wanted) != 0) {
		fprintf(stderr, "the registry is %s instead of %s\n",
		    svc_registry_name(registry), wanted);
		goto out;
	}
	if (svc_registry_lookup(registry, "student", &list, &err) != SVC_OK) {
		fprintf(stderr, "%s\n", err.text);
		goto out;
	}
	if (list.n_records != 1 || list.records[0]->n_nodes != 1) {
		fprintf(stderr, "not exactly one node of student\n");
		goto out;
	}
	printf("%s: student is at %s\n", wanted,
	    list.records[0]->nodes[0].address);
	status = 0;
out:
	svc_record_list_fini(&list);
	svc_free(s);
	return status;
}
