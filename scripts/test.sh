#!/usr/bin/env bash
# Every test in Rust, and a part of them on the oldest and the newest Postgres. Three streams of them run side by side: most tests wait
# for processes and disks; what computes or is many at once gives way to them. What takes longest is spread over the streams.
# With jobs of their own, so that a stream ends with all that it has begun.
set -meuo pipefail
cd "$(dirname "$0")/.."

computing=(
  every_client_holds_what_its_rules_select_after_every_message
  whatever_goes_wrong_nothing_is_lost_or_done_twice_and_everyone_comes_to_see_it
  every_mistake_that_is_put_back_is_found
  no_input_breaks_a_target
)
databases=whatever_a_database_lives_through_clients_hold_what_it_holds
# Test binaries that run behind what computes.
behind=(bench epochs kinds_of_tables operator replicator)
export ROWTIDE_FUZZ_SECONDS=${ROWTIDE_FUZZ_SECONDS:-30}
export ROWTIDE_PG_TESTS=${ROWTIDE_PG_TESTS:-catalog column_added kinds_of_tables setup_and_check stream}

# By itself the engine's model runs more histories.
compute() {
  ROWTIDE_HISTORIES=${ROWTIDE_HISTORIES:-6000} \
    nice -n 19 cargo test --workspace --locked --lib --test simulation --test fuzz -- "${computing[@]}"
  cargo test --workspace --locked --no-fail-fast $(printf -- '--test %s ' "${behind[@]}")
}

# The other test binaries, as arguments of cargo.
others() {
  local path name
  for path in crates/*/tests/*.rs crates/*/tests/*/main.rs tests/tests/*.rs tests/tests/*/main.rs; do
    name=$(basename "${path%/main.rs}" .rs)
    [[ " ${behind[*]} " == *" $name "* ]] || echo "$name"
  done | sort -u | sed 's/^/--test /'
}

on_others() {
  nice -n 10 cargo test --workspace --locked --test databases
  nice -n 10 scripts/postgres.sh 14 18
}

dir=$(mktemp -d)
compute >"$dir/computing" 2>&1 &
computing_pid=$!
on_others >"$dir/others" 2>&1 &
others_pid=$!
trap 'kill -- "-$computing_pid" "-$others_pid" 2>/dev/null || true; rm -rf "$dir"' EXIT

status=0
cargo test --workspace --locked --no-fail-fast --lib --bins $(others) -- "${computing[@]/#/--skip=}" --skip="$databases" || status=$?
cargo test --workspace --locked --doc || status=$?
for stream in computing others; do
  pid=${stream}_pid
  wait "${!pid}" || status=$?
  cat "$dir/$stream"
done
exit "$status"
