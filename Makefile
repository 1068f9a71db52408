# `make dev` and `make test` do their own set-up; see scripts/prepare.sh.

.PHONY: help dev test test-js test-frameworks packages test-postgres test-documents-clients torture fuzz supply bench

help:
	@echo "make dev      run the files example with a private PostgreSQL"
	@echo "make test     format check, lints, every test, and a smoke run"
	@echo "make test-js  the tests of what runs in a browser alone"
	@echo "make test-frameworks  the examples of Vue, Svelte, Solid, Angular and Next.js whose inputs have changed since they passed"
	@echo "make packages  tarballs of the JavaScript packages, in target/packages"
	@echo "make test-postgres  the end-to-end tests on PostgreSQL 14, 15, 16, 17 and 18"
	@echo "make test-documents-clients  documents with the clients of tldraw and Yjs, which it installs"
	@echo "make torture  kill, cut and stall everything for an hour, and look whether anything is lost"
	@echo "make fuzz     give everything that reads bytes from outside what it does not expect, for an hour"
	@echo "make supply   what the server is built of: licences, bans, duplicates, and advisories with cargo-deny"
	@echo "make bench    every benchmark of this build; docs/benchmarks.md says what else is in its tables"

dev:
	@scripts/prepare.sh
	cargo run --quiet -p rowtide -- dev

test:
	@scripts/prepare.sh
	cargo fmt --all --check
	scripts/circles.sh
	scripts/names.sh
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo build --workspace --all-targets --locked
	scripts/test.sh
	BUILT=yes scripts/smoke.sh
	$(MAKE) --no-print-directory test-js BUILT=yes
	$(MAKE) --no-print-directory test-frameworks BUILT=yes

test-js:
	@scripts/prepare.sh js
	[ -n "$(BUILT)" ] || cargo build --quiet --locked -p rowtide
	cd clients/js && npm run --silent check && npm test --silent
	cd examples/files/web && npm run --silent check && npm test --silent
	cd examples/notes/web && npm test --silent
	scripts/packages.sh

packages:
	@scripts/pack.sh

test-frameworks:
	@scripts/prepare.sh js
	[ -n "$(BUILT)" ] || cargo build --quiet --locked -p rowtide
	scripts/frameworks.sh

# What of it runs is in the script; `make test` runs a part on the oldest and the newest.
test-postgres:
	@scripts/prepare.sh
	scripts/postgres.sh

# tldraw's packages are not open source: whoever runs this looks at their licence.
test-documents-clients:
	@scripts/prepare.sh
	scripts/real-clients.sh

# For as long as ROWTIDE_TORTURE_SECONDS says; ROWTIDE_SEED does again what a run did.
torture:
	@scripts/prepare.sh
	ROWTIDE_TORTURE_SECONDS=$${ROWTIDE_TORTURE_SECONDS:-3600} \
	  cargo test --locked --workspace --test torture -- --nocapture

# Each target for as long as ROWTIDE_FUZZ_SECONDS says, side by side.
fuzz:
	@scripts/prepare.sh
	ROWTIDE_FUZZ_SECONDS=$${ROWTIDE_FUZZ_SECONDS:-3600} \
	  cargo test --locked --workspace --test fuzz -- --nocapture

supply:
	cargo test --locked --workspace --test supply
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check; \
	else echo "cargo-deny is not installed: advisories were not asked for (cargo install --locked cargo-deny)"; fi

bench:
	@scripts/prepare.sh js
	cargo build --release --locked -p rowtide -p rowtide-bench
	for scenario in fanout drain "drain --sessions 1" pipeline connect column idle mutate resume restart burst snapshots subscribe; do \
	  "$${CARGO_TARGET_DIR:-target}"/release/rowtide-bench $$scenario || exit 1; \
	done
	"$${CARGO_TARGET_DIR:-target}"/release/rowtide-bench rooms $$(scripts/peers.sh)
	dir=$$(mktemp -d) && cargo run --release --locked --quiet -p rowtide-log --example append "$$dir" && rm -r "$$dir"
	node clients/js/bench/bench.js
