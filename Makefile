# SPDX-License-Identifier: Apache-2.0
# The short way to everything; `make help` lists it. The work is done by CMake
# (see CMakePresets.json) and by the scripts in tools/. Every target first
# installs the Debian packages it needs; that takes no time when they are there.

PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
REGISTRY ?=
BROKER ?=
TESTS ?=
BENCH ?= default
FUZZ_SECONDS ?= 0
ROUNDS ?= 200
SCENES ?=
PLUGIN ?=
FAULT ?=
REPORT ?=
JSON ?=
LOGS ?=

packages = @tools/install-packages
build = @tools/build
consul = @tools/get-consul --optional
run_tests = @tools/run-tests
export JOBS

.PHONY: all help demo test check chaos install clean bench scale format \
	format-check lint asan tsan stress fuzz

all: ## build everything, optimised, into build/release
	$(packages) build
	$(build) release

demo: ## a service and a client; REGISTRY=etcd|consul|redis BROKER=mqtt
	$(packages) build demo $(filter etcd consul redis,$(REGISTRY)) \
		$(filter mqtt,$(BROKER))
	$(if $(filter consul,$(REGISTRY)),@tools/get-consul >/dev/null)
	$(build) release
	@REGISTRY='$(REGISTRY)' BROKER='$(BROKER)' BUILD=build/release tools/demo

test: ## build with -Werror and run all tests; TESTS=regex for some
	$(packages) build test consul $(if $(filter true,$(CI)),check)
	$(consul)
	$(build) dev
	$(run_tests) dev $(if $(TESTS),-R '$(TESTS)')

check: format-check lint asan tsan fuzz ## what a change must pass besides test

chaos: ## put registries under fault; PLUGIN=etcd FAULT=kill for some, REPORT=1
	$(packages) build test chaos
	@tools/get-consul >/dev/null
	$(build) dev
	@build/dev/bin/chaos $(if $(PLUGIN),'--plugin=$(PLUGIN)') \
	    $(if $(FAULT),'--fault=$(FAULT)') $(if $(LOGS),'--logs=$(LOGS)') \
	    $(if $(JSON),--json) $(if $(REPORT),--report=docs/reliability.md)

install: ## install into PREFIX (default /usr/local); DESTDIR is honoured
	$(packages) build
	$(build) release -DCMAKE_INSTALL_PREFIX='$(abspath $(PREFIX))'
	@cmake --install build/release

bench: ## measure svc and its peers; BENCH=quick a minute, BENCH=full all
	$(packages) build
	$(packages) --optional bench
	$(build) release -DSVC_BUILD_BENCH=ON
	@BENCH='$(BENCH)' tools/run-bench build/release

scale: ## 10,000 nodes in one etcd (or REGISTRY=consul|redis): times, memory, load
	$(packages) build demo $(or $(filter etcd consul redis,$(REGISTRY)),etcd)
	$(if $(filter consul,$(REGISTRY)),@tools/get-consul >/dev/null)
	$(build) release -DSVC_BUILD_BENCH=ON
	@SVC_SOURCE_DIR='$(CURDIR)' SVC_PLUGIN_PATH=build/release/lib/svc \
	    build/release/bin/bench_scale $(REGISTRY)

format: ## put all C files into the project's format
	$(packages) check
	@tools/format

format-check: ## say which C files are not in it
	$(packages) check
	@tools/format --check

lint: ## clang with -Werror, then clang-tidy
	$(packages) build test check
	$(build) fuzz
	@tools/lint build/fuzz

asan: ## all tests under the address and undefined behaviour sanitizers
	$(packages) build test consul
	$(consul)
	$(build) asan
	$(run_tests) asan $(if $(TESTS),-R '$(TESTS)')

tsan: ## all tests under the thread sanitizer
	$(packages) build test consul
	$(consul)
	$(build) tsan
	$(run_tests) tsan $(if $(TESTS),-R '$(TESTS)')

stress: ## close what others use, ROUNDS=2000 times each scene; SCENES=regex
	$(packages) build test
	$(build) asan
	$(build) tsan
	@tools/run-stress asan '$(ROUNDS)' '$(SCENES)'
	@tools/run-stress tsan '$(ROUNDS)' '$(SCENES)'

fuzz: ## replay the fuzz corpora; FUZZ_SECONDS=60 to search for so long each
	$(packages) build test check
	$(build) fuzz
	@tools/run-fuzz build/fuzz $(FUZZ_SECONDS)

clean: ## remove everything that was built
	@rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | \
	    awk -F'|' '{ printf "make %-13s %s\n", $$1, $$2 }'
