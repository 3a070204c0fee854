# Jetway's commands. `make demo` and `make test` install what they need; see deploy/setup.

DATA := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/jetway
export CARGO_TERM_COLOR ?= auto

# On which targets the SDKs are tried; what they do must be the same on all.
export TARGETS ?= direct,jetway
export RUSTDOCFLAGS ?= -D warnings
NODE_TEST := node --test --test-reporter=spec

# $(call step,NAME,COMMAND): says what runs, how long it took, and whether it failed.
define step
@printf '\n=== %s\n' '$(1)'; begun=$$(date +%s); ( $(2) ); status=$$?; \
  [ $$status = 0 ] && how=ok || how="FAILED ($$status)"; \
  printf '=== %s: %s, %s s\n' '$(1)' "$$how" $$(($$(date +%s) - begun)); exit $$status
endef

# Every target is a command, not a file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help:                ## What there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

demo:                ## Build, start, hold a conversation through Jetway, stay up (DEMO_ONCE=1: exit after it)
	deploy/setup demo
	cargo build --release --bin jetway --bin scripted-model
	node loadtest/demo/demo.mjs

test:                ## Everything that must hold: format, lints, docs, tests, SDK conformance, many users
	$(call step,what the tests need,deploy/setup test)
	$(MAKE) check
	$(call step,unit and integration tests,cargo test --workspace)
	$(MAKE) sdk http users-slice room-slice kills-slice density-slice fuzz-slice

check:               ## Format, lints, docs
	$(call step,format,cargo fmt --all --check)
	$(call step,lints,cargo clippy --workspace --all-targets -- -D warnings)
	$(call step,docs,cargo doc --workspace --no-deps --document-private-items)

# What the official SDKs do directly against a CLI server they must do through Jetway.
sdk: sdk-ts sdk-py sdk-rs sdk-full

sdk-ts: binaries     ## The TypeScript SDK: all of its interface
	$(call step,TypeScript SDK: direct and through Jetway,cd loadtest && $(NODE_TEST) --test-concurrency=4 sdk-ts/)

sdk-py: binaries     ## The Python SDK: a slice
	$(call step,Python SDK: direct and through Jetway,cd loadtest/sdk-py && $(DATA)/python/bin/python -m unittest discover -v)

sdk-rs: binaries     ## The Rust SDK: a slice
	$(call step,Rust SDK: format,cd loadtest/sdk-rs && cargo fmt --check)
	$(call step,Rust SDK: lints,cd loadtest/sdk-rs && cargo clippy --locked --all-targets -- -D warnings)
	$(call step,Rust SDK: direct and through Jetway,cd loadtest/sdk-rs && cargo test --locked)

sdk-full: binaries   ## The full copilot instead of the small runtime: one conversation
	$(call step,the full copilot: direct and through Jetway,cd loadtest && $(NODE_TEST) scale/full.test.mjs)

http: seeds both-faces team-chat-slice

seeds: binaries      ## The field's own HTTP requests, word for word, on real CLI servers
	$(call step,requests of the field over HTTP,node loadtest/http/seeds.mjs)

both-faces: binaries ## Sessions made over HTTP and continued by the SDK, and back
	$(call step,one session over HTTP and SDK,node loadtest/http/both-faces.mjs)

team-chat: binaries  ## 20 users in one session over HTTP, at two gateways, in strict order (ARGS="--users N --turns N")
	$(call step,team chat at two gateways,node loadtest/http/team-chat.mjs $(ARGS))

team-chat-slice: binaries
	$(call step,team chat at two gateways,node loadtest/http/team-chat.mjs --turns 1)

faces:               ## The HTTP port at full length: 1,000 cut streams, 10,000 lifecycle events, bad input, floods
	deploy/setup test
	JETWAY_CUTS=1000 JETWAY_LIFECYCLE=10000 cargo test -p jetway-gateway --test http -- cuts check_ --nocapture

schemathesis:        ## Requests that the contract allows and forbids, by the thousand (ARGS="--max-time 300")
	deploy/setup schemathesis
	cargo build --bin jetway --bin stub-cli --bin scripted-model
	node loadtest/http/schemathesis.mjs $(ARGS)

users:               ## 200 users at once, a CLI process for each (ARGS="--users N --over SECONDS --json")
	deploy/setup demo
	cargo build --release --bin jetway --bin scripted-model
	node loadtest/scale/users.mjs $(ARGS)

bench-density:       ## 2,000 users, a process of their own for every turn, inside 8 GiB (ARGS="--users N --budget-mb N --seconds N")
	deploy/setup demo
	cargo build --release --bin jetway --bin scripted-model
	node loadtest/scale/density.mjs $(ARGS)

density-slice: binaries
	$(call step,more users than fit in memory or start in time,node loadtest/scale/density.mjs --users 60 --budget-mb 800 --seconds 10 --rate 8 --profile debug)

rolling:             ## 20 rolling restarts of CLI servers and gateways under load: 10,000 turns, none refused or lost
	deploy/setup test
	JETWAY_TURNS=10000 JETWAY_RESTARTS=20 cargo test -p jetway-gateway --test rolling -- --nocapture --test-threads=1

walls:               ## What walls keep and cost, at full length: shells, hogs beside neighbours, starts
	deploy/setup test
	JETWAY_LONG=1 cargo test -p jetway-gateway --test sandbox --test adoption -- --nocapture --test-threads=1

groups:              ## Limits and walls where control groups are of version 2: on Debian's kernel, in a virtual machine
	deploy/setup vm
	cargo build --bins
	cargo test -p jetway-gateway --no-run --test http --test sandbox
	loadtest/groups/vm 900 loadtest/groups/guest

users-slice: binaries
	$(call step,20 users at once,node loadtest/scale/users.mjs --users 20 --profile debug)

kills:               ## kill -9 of one CLI process in ten every second under 200 users: no turn lost (ARGS="--users N --seconds N")
	deploy/setup demo
	cargo build --release --bin jetway --bin scripted-model
	node loadtest/scale/kills.mjs $(ARGS)

kills-slice: binaries
	$(call step,CLI processes are killed under 12 users,node loadtest/scale/kills.mjs --users 12 --seconds 8 --over 4 --profile debug)

room:                ## 8 people on 2 gateways, 200 turns in one shared session of a real runtime (ARGS="--turns N --users N --gateways N")
	deploy/setup test
	cargo build --release --bin jetway --bin scripted-model
	node loadtest/scale/room.mjs $(ARGS)

room-slice: binaries
	$(call step,people on two gateways in one session,node loadtest/scale/room.mjs --turns 24 --profile debug)

binaries:
	@deploy/setup test
	@cargo build --bins

bench:               ## Jetway beside nginx, HAProxy and a plain splice (ARGS="--only http": the HTTP port)
	deploy/setup bench
	cargo build --release --bins
	target/release/bench $(ARGS)

# The pinned compiler can do what cargo-fuzz asks of it, once it is told that it may.
FUZZ := RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir wire/fuzz --target-dir target/fuzz --sanitizer none

fuzz:                ## Coverage-guided fuzzing of framing, scanner, envelope, catalogue, configuration, HTTP (SECONDS=60 each)
	deploy/setup fuzz
	for target in frame json envelope catalogue config; do \
	  $(FUZZ) $$target -- -max_total_time=$(or $(SECONDS),60) || exit 1; done
	$(FUZZ) --features http http -- -max_total_time=$(or $(SECONDS),60)

fuzz-slice:
	$(call step,what fuzzing needs,deploy/setup fuzz)
	$(call step,fuzzing for some seconds,for target in frame json envelope catalogue config; do \
	  $(FUZZ) $$target -- -max_total_time=4 -verbosity=0 -print_final_stats=1 || exit 1; done)

chaos:               ## Leases and turns under faults, at full length: 10,000 seeds, 10,000 turns, 100 promotions
	deploy/setup test
	LOCKD_SEEDS=10000 LOCKD_TURNS=10000 LOCKD_PROMOTIONS=100 cargo test -p jetway-lockd -- --nocapture
	JETWAY_TURNS=10000 JETWAY_MOVES=1000 cargo test -p jetway-gateway --test leases --test moving -- --nocapture

overload:            ## Twice the capacity, and one greedy tenant, for SECONDS=600, by the figures of the checks
	JETWAY_OVERLOAD_SECONDS=$(or $(SECONDS),600) cargo test --release -p jetway-gateway --test overload -- --nocapture --test-threads=1

bench-locks:         ## Leases beside a plain lock and a 50 ms poller
	deploy/setup test
	cargo bench -p jetway-lockd

fmt:                 ## Format everything
	cargo fmt --all
	cd loadtest/sdk-rs && cargo fmt
