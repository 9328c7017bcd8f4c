/* SPDX-License-Identifier: Apache-2.0 */
/* The command line by itself: its usage, and where nobody is. */
#include "run_tool.h"
#include "support/servers.h"

#include <svc/svc.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void
test_usage(void **state)
{
	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=memory");
	where[1][0] = '\0';
	expect_part(WORDS("--version"), 0, svc_version(), "");
	expect_part(WORDS("--help"), 0, "  subscribe TOPIC", "");
	expect_part(WORDS("help"), 0, "--registry_address", "");
	expect_part(WORDS("help", "call"), 0,
	    "Usage: svc call NAME ENDPOINT [JSON]", "");
	expect_part(WORDS("call", "--help"), 0, "--timeout", "");
	/* It is a flag like others. */
	const char *const asked[] = {"--help", "-h", "--help=yes", "--help=1"};
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		expect_part(WORDS("call", "a", "A.B", asked[i]), 0,
		    "Usage: svc call NAME ENDPOINT [JSON]", "");
		expect_part(WORDS("call", asked[i]), 0,
		    "Usage: svc call NAME ENDPOINT [JSON]", "");
		expect_part(WORDS(asked[i]), 0, "  subscribe TOPIC", "");
	}
	setenv("SVC_HELP", "true", 1);
	expect_part(WORDS("list"), 0, "Usage: svc list [--flag", "");
	unsetenv("SVC_HELP");
	expect(WORDS("list", "--help=no"), NULL, 0, "",
	    "no services in the registry memory\n");
	expect_part(WORDS("list", "--help=maybe"), 2, "",
	    "--help: \"maybe\" is neither yes nor no");
	expect_part(WORDS("help", "cal"), 2, "", "did you mean \"call\"?");
	expect(WORDS("lst"), NULL, 2, "",
	    "svc: there is no command \"lst\"; did you mean \"list\"?\n");
	expect(WORDS("hel"), NULL, 2, "",
	    "svc: there is no command \"hel\"; did you mean \"help\"?\n");
	expect(WORDS("frobnicate"), NULL, 2, "",
	    "svc: there is no command \"frobnicate\"; there are list, get, "
	    "health, call, stream, publish, subscribe, watch, doctor and "
	    "help\n");
	expect_part(WORDS("help", "stream"), 0,
	    "Usage: svc stream NAME ENDPOINT [JSON...]", "");
	expect(WORDS("stream", "a", "A.B", "1", "{]"), NULL, 2, "",
	    "svc: a message is not JSON: line 1, column 2: expected a name in "
	    "\"\"\n");
	expect(WORDS("call", "student"), NULL, 2, "",
	    "svc: something is missing: svc call NAME ENDPOINT [JSON]\n");
	expect(WORDS("list", "more"), NULL, 2, "",
	    "svc: \"more\" is one too many: svc list\n");
	expect(WORDS("list", "--count=3"), NULL, 2, "",
	    "svc: `svc list` takes no --count; see `svc help list`\n");
	expect_part(WORDS("list", "--registri=mdns"), 2, "", "--registry");
	expect_part(WORDS("watch", "--count=many"), 2, "", "count");
	expect_part(WORDS("list", "--registry=no_such"), 2, "", "no_such");
	expect_part(WORDS("get", "a/b"), 2, "", "a/b");
	expect_part(WORDS("call", "a/b", "A.B"), 2, "", "a/b");
	expect_part(WORDS("stream", "a/b", "A.B", "1"), 2, "", "a/b");
	expect(WORDS("call", "a", ""), NULL, 2, "",
	    "svc: the name of the endpoint is empty\n");
	expect(WORDS("call", "a", "A.B", "{\"id\":7,}"), NULL, 2, "",
	    "svc: the JSON is not JSON: line 1, column 9: expected a name in "
	    "\"\"\n");
	expect(WORDS("publish", "t", "-"), "[1\n2]", 2, "",
	    "svc: standard input is not JSON: line 2, column 1: expected , or "
	    "]\n");
	expect(WORDS("publish", "t", "-", "--max_message_size=9"),
	    "\"1234567890\"", 1, "",
	    "svc: standard input is longer than 9 bytes; raise "
	    "--max_message_size\n");
}

static void
test_nobody(void **state)
{
	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=memory");
	where[1][0] = '\0';
	expect(
	    WORDS("list"), NULL, 0, "", "no services in the registry memory\n");
	expect(WORDS("list", "--json"), NULL, 0, "[]\n", "");
	expect(WORDS("get", "nobody"), NULL, 1, "",
	    "svc: service not found: nobody\n");
	expect(WORDS("call", "nobody", "A.B"), NULL, 1, "",
	    "svc: service not found: nobody\n");
	expect(WORDS("call", "nobody", "A.B", "--json"), NULL, 1,
	    "{\"error\":\"service not found: nobody\","
	    "\"code\":\"SVC_E_NOT_FOUND\"}\n",
	    "svc: service not found: nobody\n");
	expect(WORDS("stream", "nobody", "A.B", "1"), NULL, 1, "",
	    "svc: service not found: nobody\n");
}

/* Why, and what to do, where nobody listens. */
static void
test_away(void **state)
{
	struct program p;

	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=redis");
	snprintf(where[1], sizeof(where[1]), "--registry_address=127.0.0.1:%d",
	    test_free_port());
	expect_part(WORDS("list"), 1, "", "Connection refused; `svc doctor`");
	expect_part(WORDS("get", "nobody"), 1, "", "; `svc doctor` with");
	expect_part(WORDS("health", "nobody"), 1, "", "; `svc doctor` with");
	/* A call waits for somebody to come, and says why nobody did. */
	p = start_tool(NULL, WORDS("call", "nobody", "A.B", "--timeout=300ms"));
	end_tool(&p, 1);
	assert_non_null(strstr(text_of(&p, 1), "redis.lost: "));
	free_tool(&p);
	p = start_tool(NULL, WORDS("watch"));
	read_until(&p, 1, "Connection refused");
	kill(p.pid, SIGTERM);
	end_tool(&p, 0);
	free_tool(&p);
	/* Unless another level is asked for. */
	expect_part(WORDS("call", "nobody", "A.B", "--timeout=300ms",
			"--log_level=off"),
	    1, "", "svc: registry redis");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_usage),
	    cmocka_unit_test(test_nobody),
	    cmocka_unit_test(test_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
