# `make dev` and `make test` do their own set-up; see scripts/prepare.sh.

.PHONY: help dev test bench

help:
	@echo "make dev    run the files example with a private PostgreSQL"
	@echo "make test   format check, lints, every test, and a smoke run"

dev:
	@scripts/prepare.sh
	cargo run --quiet -p rowtide -- dev

test:
	@scripts/prepare.sh
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	scripts/smoke.sh
