#!/usr/bin/env bash
# Documents with the clients that exist: installs those of Yjs and of tldraw in two versions of its protocol into target/,
# and runs them against a server whose sockets are cut and which is killed. tldraw's packages are not open source; nothing
# of them, nor anything that depends on them, is part of Rowtide.
set -euo pipefail
cd "$(dirname "$0")/.."

clients="$(mkdir -p "${CARGO_TARGET_DIR:-target}/real-clients" && cd "${CARGO_TARGET_DIR:-target}/real-clients" && pwd)"

installed() {
  local dir="$clients/$1"
  shift
  mkdir -p "$dir"
  [ -f "$dir/package.json" ] || echo '{"private":true}' >"$dir/package.json"
  npm install --prefix "$dir" --no-audit --no-fund --no-package-lock --loglevel=error "$@" >&2
}

installed yjs yjs@13.6.33 y-websocket@3.1.0 ws@8
for version in 3.11.0 5.4.2; do
  installed "tldraw-$version" "@tldraw/sync-core@$version" "@tldraw/tlschema@$version" "@tldraw/store@$version" \
    "@tldraw/state@$version" react@18 react-dom@18 ws@8
done
ROWTIDE_REAL_CLIENTS="$clients" cargo test --locked --workspace --test torture real_clients -- --nocapture
