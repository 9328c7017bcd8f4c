/* SPDX-License-Identifier: Apache-2.0 */
#include "testdata/toy.h"

#include <support/scarce.h>
#include <svc/clock.h>

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The build makes them of testdata/module.c, in TOY_FOLDER. The test goes
 * there, so that the texts it expects do not depend on the place. */
#define MODULES "modules"

static int
play(void)
{
	return 1;
}

static int
play_otherwise(void)
{
	return 2;
}

#define OPS(its_name, its_play)                                         \
	{                                                               \
		.abi = SVC_TOY_ABI, .size = sizeof(struct svc_toy_ops), \
		.name = its_name, .play = its_play                      \
	}
static const struct svc_toy_ops own = OPS("own", play);
static const struct svc_toy_ops mine = OPS("mine", play);
static const struct svc_toy_ops other_mine = OPS("mine", play_otherwise);

static const void *const embedded[] = {&own, NULL};
static const struct svc_required required[] = {
    SVC_REQUIRED(struct svc_toy_ops, play),
    {NULL, 0},
};
static const struct svc_interface toy = {
    .name = "toy",
    .abi = SVC_TOY_ABI,
    .min_size = offsetof(struct svc_toy_ops, rest),
    .required = required,
    .embedded = embedded,
};
static const struct svc_interface empty = {
    .name = "empty",
    .abi = SVC_ABI(78, 1),
    .min_size = sizeof(struct svc_plugin_head),
};

static int
setup(void **state)
{
	(void)state;
	return setenv("SVC_PLUGIN_PATH", "/nowhere::" MODULES, 1);
}

static const struct svc_toy_ops *
found(const char *name)
{
	const void *ops = NULL;
	struct svc_error err;
	if (svc_catalogue_find(&toy, name, &ops, &err) != SVC_OK)
		fail_msg("%s: %s", name, err.text);
	return ops;
}

static void
refused(const char *name, svc_err code, const char *text)
{
	const void *ops = &own;
	struct svc_error err;
	assert_int_equal(svc_catalogue_find(&toy, name, &ops, &err), code);
	assert_int_equal(err.code, code);
	assert_string_equal(err.text, text);
	assert_ptr_equal(ops, &own);
}

static void
embedded_and_added_are_found(void **state)
{
	(void)state;
	struct svc_error err;
	assert_ptr_equal(found("own"), &own);
	assert_int_equal(svc_catalogue_add(&toy, &mine, &err), SVC_OK);
	assert_int_equal(svc_catalogue_add(&toy, &mine, &err), SVC_OK);
	assert_ptr_equal(found("mine"), &mine);
	assert_int_equal(
	    svc_catalogue_add(&toy, &other_mine, &err), SVC_E_EXISTS);
	assert_string_equal(
	    err.text, "there is another toy plugin \"mine\" already");
	assert_ptr_equal(found("mine"), &mine);
}

static void
modules_are_loaded(void **state)
{
	(void)state;
	const struct svc_toy_ops *ops = found("good");
	assert_int_equal(ops->play(), 42);
	assert_false(SVC_OPS_HAS(ops, rest));
	assert_ptr_equal(found("good"), ops);
	/* Compiled before `rest` was appended. */
	ops = found("old");
	assert_int_equal(ops->size, offsetof(struct svc_toy_ops, rest));
	assert_false(SVC_OPS_HAS(ops, rest));
	/* Compiled for a release that has more members. */
	assert_int_equal(found("newer")->play(), 42);
}

static void
what_was_added_wins_over_a_module(void **state)
{
	(void)state;
	static const struct svc_toy_ops shadow = OPS("good", play_otherwise);
	assert_int_equal(found("good")->play(), 42);
	assert_int_equal(svc_catalogue_add(&toy, &shadow, NULL), SVC_OK);
	assert_ptr_equal(found("good"), &shadow);
}

static void
bad_modules_are_named_with_the_reason(void **state)
{
	(void)state;
	refused("abi", SVC_E_ABI,
	    "toy plugin \"abi\" has abi 2, this library needs 3; rebuild the "
	    "plugin for svc " TOY_VERSION " (" MODULES "/libsvc_toy_abi.so)");
	refused("stranger", SVC_E_ABI,
	    "plugin \"stranger\" is for interface 78, but toy is interface 77 "
	    "(" MODULES "/libsvc_toy_stranger.so)");
	refused("member", SVC_E_ABI,
	    "toy plugin \"member\" lacks the required member play (" MODULES
	    "/libsvc_toy_member.so)");
	refused("small", SVC_E_ABI,
	    "toy plugin \"small\" has 16 bytes of ops, at least 24 are needed "
	    "(" MODULES "/libsvc_toy_small.so)");
	refused("misnamed", SVC_E_ABI,
	    MODULES "/libsvc_toy_misnamed.so holds the plugin \"other\", its "
		    "name says \"misnamed\"");
	refused("nothing", SVC_E_ABI,
	    MODULES "/libsvc_toy_nothing.so is no plugin: it exports no "
		    "function svc_plugin");
	/* What the loader of the system says is its own affair. */
	const void *ops;
	struct svc_error err;
	static const char start[] =
	    "cannot load " MODULES "/libsvc_toy_text.so: ";
	assert_int_equal(
	    svc_catalogue_find(&toy, "text", &ops, &err), SVC_E_ABI);
	assert_memory_equal(err.text, start, strlen(start));
}

static void
names_must_be_names(void **state)
{
	(void)state;
	static const struct {
		const char *name, *shown;
	} bad[] = {{"", "\"\""}, {"Good", "\"Good\""}, {"1a", "\"1a\""},
	    {"../good", "\"../good\""}, {"a b\n", "\"a b\\x0a\""},
	    {NULL, "NULL"},
	    {"a23456789012345678901234567890123",
		"\"a23456789012345678901234567890123\""}};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const void *ops = &own;
		struct svc_error err;
		char start[80];
		snprintf(start, sizeof(start), "no toy %s", bad[i].shown);
		assert_int_equal(
		    svc_catalogue_find(&toy, bad[i].name, &ops, &err),
		    SVC_E_INVAL);
		assert_memory_equal(err.text, start, strlen(start));
		assert_non_null(strstr(err.text, "llowed: abi, good, member"));
		assert_ptr_equal(ops, &own);
	}
}

static void
an_unknown_name_lists_what_there_is(void **state)
{
	(void)state;
	const void *ops;
	struct svc_error err;
	assert_int_equal(
	    svc_catalogue_find(&toy, "goood", &ops, &err), SVC_E_NOT_FOUND);
	static const char start[] =
	    "no toy \"goood\", did you mean \"good\"? Allowed: abi, "
	    "good, member, mine, misnamed, newer, nothing, old, own, small, "
	    "stranger, text; looked in /nowhere, " MODULES;
	assert_memory_equal(err.text, start,
	    strlen(start) < sizeof(err.text) ? strlen(start)
					     : sizeof(err.text) - 1);

	assert_int_equal(
	    svc_catalogue_find(&empty, "any", &ops, &err), SVC_E_NOT_FOUND);
	static const char none[] = "no empty \"any\"; there is none; "
				   "looked in /nowhere, " MODULES ", /";
	assert_memory_equal(err.text, none, strlen(none));
	/* The last folder is the one beside the library. */
	assert_string_equal(err.text + strlen(err.text) - 4, "/svc");
}

struct listed {
	char text[300];
};

static void
append(const char *name, void *arg)
{
	struct listed *listed = arg;
	size_t len = strlen(listed->text);
	snprintf(listed->text + len, sizeof(listed->text) - len, "%s ", name);
}

static void
lists_each_once(void **state)
{
	(void)state;
	struct listed listed = {""};
	setenv("SVC_PLUGIN_PATH", MODULES ":" MODULES, 1);
	svc_catalogue_add(&toy, &mine, NULL);
	assert_int_equal(svc_catalogue_list(&toy, append, &listed), SVC_OK);
	assert_string_equal(listed.text,
	    "abi good member mine misnamed newer nothing old own small "
	    "stranger text ");
	unsetenv("SVC_PLUGIN_PATH");
	listed.text[0] = '\0';
	assert_int_equal(svc_catalogue_list(&empty, append, &listed), SVC_OK);
	assert_string_equal(listed.text, "");
}

static void
ops_of_the_program_are_checked_too(void **state)
{
	(void)state;
	static const struct svc_toy_ops bad[] = {
	    OPS("nothing_to_play", NULL),
	    OPS(NULL, play),
	    OPS("Upper", play),
	};
	struct svc_error err;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(
		    svc_catalogue_add(&toy, &bad[i], &err), SVC_E_ABI);
	assert_int_equal(svc_catalogue_check(&toy, NULL, &err), SVC_E_ABI);
	assert_string_equal(err.text, "toy plugin hands out no ops");
	assert_int_equal(svc_catalogue_check(&toy, &bad[0], &err), SVC_E_ABI);
	assert_string_equal(err.text,
	    "toy plugin \"nothing_to_play\" lacks the required member play");
	assert_int_equal(svc_catalogue_check(&toy, &own, NULL), SVC_OK);
}

/* All threads get the same ops, whoever loads the module. */
static void *
find_newer(void *arg)
{
	const void **ops = arg;
	svc_catalogue_find(&toy, "newer", ops, NULL);
	return NULL;
}

static void
threads_find_the_same(void **state)
{
	(void)state;
	enum { THREADS = 4 };
	pthread_t threads[THREADS];
	const void *ops[THREADS] = {NULL};
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(svc_thread_start(&threads[i], "svc-find",
				     find_newer, &ops[i]),
		    SVC_OK);
	for (size_t i = 0; i < THREADS; i++)
		svc_thread_join(threads[i]);
	assert_non_null(ops[0]);
	for (size_t i = 1; i < THREADS; i++)
		assert_ptr_equal(ops[i], ops[0]);
}

static void
survives_each_failing_allocation(void **state)
{
	(void)state;
	bool hit = true;
	long swept = 0;
	for (; hit; swept++) {
		struct listed listed = {""};
		const void *ops;
		scarce_begin();
		scarce_at(swept);
		svc_err unknown =
		    svc_catalogue_find(&toy, "unknown", &ops, NULL);
		svc_err bad = svc_catalogue_find(&toy, "member", &ops, NULL);
		svc_err all = svc_catalogue_list(&toy, append, &listed);
		scarce_end();
		assert_true(
		    unknown == SVC_E_NOT_FOUND || unknown == SVC_E_NOMEM);
		assert_true(bad == SVC_E_ABI || bad == SVC_E_NOMEM);
		assert_true(all == SVC_E_NOMEM ||
			    strstr(listed.text, "abi good ") != NULL);
		hit = scarce_hit();
	}
	assert_true(swept > 5);
}

int
main(void)
{
	if (chdir(TOY_FOLDER) != 0)
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(threads_find_the_same, setup),
	    cmocka_unit_test_setup(embedded_and_added_are_found, setup),
	    cmocka_unit_test_setup(modules_are_loaded, setup),
	    cmocka_unit_test_setup(what_was_added_wins_over_a_module, setup),
	    cmocka_unit_test_setup(
		bad_modules_are_named_with_the_reason, setup),
	    cmocka_unit_test_setup(names_must_be_names, setup),
	    cmocka_unit_test_setup(an_unknown_name_lists_what_there_is, setup),
	    cmocka_unit_test_setup(lists_each_once, setup),
	    cmocka_unit_test_setup(ops_of_the_program_are_checked_too, setup),
	    cmocka_unit_test_setup(survives_each_failing_allocation, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
