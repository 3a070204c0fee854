# Jetway's commands. `make demo` and `make test` install what they need; see deploy/setup.

DATA := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/jetway
export CARGO_TERM_COLOR ?= auto

.PHONY: help demo test bench check sdk fmt

help:                ## What there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

demo:                ## Build, start, hold a conversation through Jetway, stay up (DEMO_ONCE=1: exit after it)
	deploy/setup demo
	cargo build --release --bin jetway --bin scripted-model
	node loadtest/demo/demo.mjs

test: check          ## Everything that must hold: format, lints, docs, tests, SDK conformance
	cargo test --workspace
	cargo build --bins
	$(MAKE) sdk

check:
	deploy/setup test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

sdk:
	cd loadtest && TARGETS=direct,jetway node --test --test-concurrency=4 sdk-ts/

bench:               ## Jetway beside nginx, HAProxy and a plain splice
	deploy/setup bench
	cargo build --release --bins
	target/release/bench

fmt:                 ## Format everything
	cargo fmt --all
