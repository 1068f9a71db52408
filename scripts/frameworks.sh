#!/usr/bin/env bash
# Builds and clicks the examples of frameworks, which takes minutes: so only those whose inputs have changed since they last passed.
# Inputs are the example, its test, the client's sources and the definition that the example runs over. examples/frameworks/passed.txt
# has the hash of the inputs with which each example passed. Nothing but a pass writes a hash there.
# `scripts/frameworks.sh`, or `scripts/frameworks.sh vue svelte` for some of them.
set -euo pipefail
cd "$(dirname "$0")/.."

passed=examples/frameworks/passed.txt
examples=${*:-vue svelte solid angular next}

# hash EXAMPLE: of the names and contents of its inputs.
hash() {
  find "examples/frameworks/$1" examples/frameworks/test examples/tracker clients/js/client/src clients/js/client/package.json \
    clients/js/test/kit.js scripts/frameworks.sh \
    \( -name node_modules -o -name dist -o -name .angular -o -name .next \) -prune -o -type f -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1
}

for example in $examples; do
  inputs=$(hash "$example")
  if grep -qsx "$example $inputs" "$passed"; then continue; fi
  echo "$example: its inputs have changed since it last passed"
  if ! [ -x "${CARGO_TARGET_DIR:-target}/debug/rowtide" ]; then cargo build --quiet --locked -p rowtide; fi
  directory=examples/frameworks/$example
  if ! [ "$directory/node_modules/.package-lock.json" -nt "$directory/package-lock.json" ]; then
    npm ci --prefix "$directory" --no-audit --no-fund --loglevel=error
  fi
  rm -rf "$directory/dist"
  npm run --silent build --prefix "$directory"
  ROWTIDE_FRAMEWORK=$example node --test --test-force-exit --test-reporter=dot --test-timeout=600000 examples/frameworks/test/click.test.js
  if [ "$(hash "$example")" != "$inputs" ]; then
    echo "$example: its inputs have changed while it ran, so this says nothing of them" >&2
    exit 1
  fi
  { grep -v "^$example " "$passed" 2>/dev/null || true; echo "$example $inputs"; } | LC_ALL=C sort >"$passed.new"
  mv "$passed.new" "$passed"
  echo "$example: passed; commit $passed"
done
