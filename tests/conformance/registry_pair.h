/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the registry's promises share. */
#ifndef SVC_CONFORMANCE_REGISTRY_PAIR_H
#define SVC_CONFORMANCE_REGISTRY_PAIR_H

#include <conformance/registry.h>
#include <support/ok.h>

#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum {
	TTL_LONG_MS = 60000,
	WAIT_MS = 20000, /* for what comes at once, also on a busy machine */
};

/** The registry that is held against its promises. */
extern const struct svc_conformance_registry *pair_setup;
/** The shortest TTL that it keeps exactly. */
int64_t pair_ttl_ms(void);

/** One registry that announces and one that looks, as two processes have. */
struct pair {
	struct svc_registry *here, *there;
	struct recorder *recorder;
	struct svc_watch *watch;
	char name[48]; /* a service of this test only */
};
/** Makes an instance. */
svc_err pair_make(struct svc_registry **ret_registry, struct svc_error *err);
int pair_begin(void **state);
int pair_end(void **state);
void pair_choose_name(struct pair *f);

void pair_announce(struct pair *f, const struct sample *sample, int64_t for_ms);
void pair_withdraw(struct pair *f, const struct sample *sample);
/** Begins the watch and waits until it has told what is there. */
void pair_watch_synced(struct pair *f, const char *service);
/** How many nodes a lookup finds; -1 for SVC_E_NOT_FOUND. */
int pair_looked_up(
    struct pair *f, const char *service, struct svc_record_list *ret_list);
/** Looks until it finds so many: others may take as long to find an announced
 * node as an event takes. `ret_list` may be NULL. */
void pair_expect_nodes(struct pair *f, const char *service, int nodes,
    struct svc_record_list *ret_list);

#define CREATED(f, sample)                                    \
	assert_true(recorder_wait((f)->recorder, SVC_CREATED, \
	    (sample)->service, (sample)->id, WAIT_MS, NULL))
#define REMOVED(f, sample)                                    \
	assert_true(recorder_wait((f)->recorder, SVC_REMOVED, \
	    (sample)->service, (sample)->id, WAIT_MS, NULL))

/* The tests of registry_announce.c, */
void an_announced_node_is_found_as_it_is(void **state);
void an_unknown_service_is_not_found(void **state);
void announcing_again_changes_nothing(void **state);
void a_node_not_renewed_goes_in_time(void **state);
void a_node_that_renews_stays(void **state);
void a_withdrawn_node_is_gone_at_once(void **state);
void bad_arguments_are_refused(void **state);
/* of registry_names.c, */
void services_with_a_common_beginning_do_not_mix(void **state);
void versions_and_ids_do_not_mix(void **state);
void a_list_has_everything(void **state);
/* of registry_watch.c, */
void a_watch_tells_what_is_there_then_syncs(void **state);
void a_watch_tells_every_change(void **state);
void a_watch_of_all_sees_all(void **state);
void an_ended_watch_is_silent(void **state);
void many_threads_may_use_it(void **state);
/* and of registry_nomem.c. */
void what_lacks_memory_says_so(void **state);
void a_watch_that_lacks_memory_misses_nothing(void **state);

#endif
