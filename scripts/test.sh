#!/usr/bin/env bash
# Every test in Rust, and a part of them on the oldest and the newest Postgres. Three streams of them run side by side: most tests wait
# for processes and disks; what computes or is many at once gives way to them.
# With jobs of their own, so that a stream ends with all that it has begun.
set -meuo pipefail
cd "$(dirname "$0")/.."

computing=(
  whatever_goes_wrong_nothing_is_lost_or_done_twice_and_everyone_comes_to_see_it
  every_mistake_that_is_put_back_is_found
  no_input_breaks_a_target
)
databases=whatever_a_database_lives_through_clients_hold_what_it_holds
export ROWTIDE_FUZZ_SECONDS=${ROWTIDE_FUZZ_SECONDS:-60}
export ROWTIDE_PG_TESTS=${ROWTIDE_PG_TESTS:-catalog column_added kinds_of_tables setup_and_check stream}

compute() { nice -n 19 cargo test --workspace --locked --test simulation --test fuzz -- "${computing[@]}"; }

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

cargo test --workspace --locked --no-fail-fast -- "${computing[@]/#/--skip=}" --skip="$databases"

status=0
for stream in computing others; do
  pid=${stream}_pid
  wait "${!pid}" || status=$?
  cat "$dir/$stream"
done
exit "$status"
