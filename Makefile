# `make dev` and `make test` do their own set-up; see scripts/prepare.sh.

.PHONY: help dev test bench

help:
	@echo "make dev    run the files example with a private PostgreSQL"
	@echo "make test   format check, lints, every test, and a smoke run"
	@echo "make bench  every benchmark, beside the limit that Postgres sets"

dev:
	@scripts/prepare.sh
	cargo run --quiet -p rowtide -- dev

test:
	@scripts/prepare.sh
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	scripts/smoke.sh

bench:
	@scripts/prepare.sh
	cargo build --release --locked -p rowtide
	for scenario in fanout drain connect idle mutate; do \
	  "$${CARGO_TARGET_DIR:-target}"/release/rowtide bench $$scenario || exit 1; \
	done
