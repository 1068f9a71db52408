#!/usr/bin/env bash
# Every test in Rust. What computes for minutes runs beside the others, which mostly wait for processes and disks, and
# gives way to them.
set -euo pipefail
cd "$(dirname "$0")/.."

computing=(
  whatever_goes_wrong_nothing_is_lost_or_done_twice_and_everyone_comes_to_see_it
  every_mistake_that_is_put_back_is_found
  no_input_breaks_a_target
)
export ROWTIDE_FUZZ_SECONDS=${ROWTIDE_FUZZ_SECONDS:-60}

said=$(mktemp)
nice -n 19 cargo test --workspace --locked --test simulation --test fuzz -- "${computing[@]}" >"$said" 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null || true; rm -f "$said"' EXIT

cargo test --workspace --locked -- "${computing[@]/#/--skip=}"

status=0
wait "$beside" || status=$?
cat "$said"
exit "$status"
