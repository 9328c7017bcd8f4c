/* SPDX-License-Identifier: Apache-2.0 */
/* The command line with a service of many nodes. */
#include "run_tool.h"
#include "support/servers.h"

#include <svc/svc.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Of many nodes, which all are this process. None answers before as many are
 * asked as shall be at once, and then all do. */
enum { NODES = 40, AT_ONCE = 32 };
static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int asked, open, most;
} crowd = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
on_health(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	int64_t deadline = svc_deadline(LIMIT_MS);

	(void)req;
	(void)arg;
	pthread_mutex_lock(&crowd.lock);
	crowd.asked++;
	crowd.open++;
	if (crowd.open > crowd.most)
		crowd.most = crowd.open;
	pthread_cond_broadcast(&crowd.cond);
	while (crowd.asked < AT_ONCE && svc_remaining(deadline) > 0)
		svc_cond_wait(&crowd.cond, &crowd.lock, deadline);
	crowd.open--;
	pthread_mutex_unlock(&crowd.lock);
	return svc_reply_text(
	    call, rsp, "application/json", "{\"status\":\"ok\"}");
}

/* A line for each node, in the order of the registry: those that answer, and
 * one that does not. */
static void
test_health_of_many(void **state)
{
	struct svc_service *s = svc_new(name("many"), registry(memory, "many"),
	    broker(memory), address("127.0.0.1:0"));
	char path[] = "/tmp/svc-cli-XXXXXX", expected[64], silent[16];
	struct program p;
	FILE *file;
	int fd, port = test_free_port();

	(void)state;
	svc_cond_init(&crowd.cond);
	assert_int_equal(
	    svc_handle(s, "Debug.Health", on_health, NULL), SVC_OK);
	assert_int_equal(svc_start(s), SVC_OK);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	file = fdopen(fd, "w");
	fprintf(file, "many:\n  nodes:\n");
	for (int i = 0; i < NODES; i++)
		fprintf(file, "    - {id: n%02d, address: %s}\n", i,
		    svc_options_of(s)->address);
	snprintf(silent, sizeof(silent), "127.0.0.1:%d", port);
	fprintf(file, "    - {id: gone, address: %s}\n", silent);
	assert_int_equal(fclose(file), 0);
	snprintf(where[0], sizeof(where[0]), "--registry=static");
	snprintf(where[1], sizeof(where[1]), "--registry_address=%s", path);

	p = start_tool(NULL, WORDS("health", "many", "--timeout=20s"));
	end_tool(&p, 1);
	const char *at = strstr(text_of(&p, 0), silent);
	assert_non_null(at);
	assert_null(strstr(at, "gone"));
	for (int i = 0; i < NODES; i++) {
		snprintf(expected, sizeof(expected), "\nn%02d ", i);
		at = strstr(at, expected);
		assert_non_null(at);
		assert_ptr_equal(
		    strstr(at, "  ok\n"), strchr(at + 1, '\n') - 4);
	}
	pthread_mutex_lock(&crowd.lock);
	assert_int_equal(crowd.asked, NODES);
	assert_int_equal(crowd.most, AT_ONCE);
	pthread_mutex_unlock(&crowd.lock);
	free_tool(&p);

	p = start_tool(NULL, WORDS("health", "many", "--json"));
	end_tool(&p, 1);
	at = strstr(text_of(&p, 0), "{\"id\":\"gone\",\"address\":\"");
	assert_non_null(at);
	assert_non_null(strstr(at, "\",\"error\":\""));
	for (int i = 0; i < NODES; i++) {
		snprintf(expected, sizeof(expected), "{\"id\":\"n%02d\",", i);
		at = strstr(at, expected);
		assert_non_null(at);
		assert_ptr_equal(
		    strstr(at, ",\"status\":\"ok\"}") + 14, strchr(at, '}'));
	}
	free_tool(&p);
	svc_free(s);
	unlink(path);
	pthread_cond_destroy(&crowd.cond);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_health_of_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
