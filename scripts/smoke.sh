#!/usr/bin/env bash
# The first minute of a newcomer, checked: start `rowtide dev`, watch as two people, edit a row with
# psql, and see it arrive where it should and nowhere else. Everything that is waited for has a
# deadline.
set -euo pipefail
cd "$(dirname "$0")/.."
# What is set for tests is no setting of the server, which refuses it.
for name in "${!ROWTIDE_@}"; do [ "$name" = ROWTIDE_PG_BIN ] || unset "$name"; done

dir=$(mktemp -d /tmp/rowtide-smoke.XXXXXX)
chmod 755 "$dir"
[ -n "${BUILT:-}" ] || cargo build --quiet -p rowtide
rowtide="${CARGO_TARGET_DIR:-target}/debug/rowtide"

pids=()
finish() {
  local status=$?
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" -ne 0 ]; then tail -n 20 "$dir"/*.log; fi
  rm -rf "$dir"
  exit "$status"
}
trap finish EXIT

# until_there FILE PATTERN: waits for a line, for at most three minutes.
until_there() {
  local deadline=$((SECONDS + 180))
  until grep -qE -- "$2" "$1" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "smoke: no line like '$2' in $(basename "$1")" >&2
      exit 1
    fi
    sleep 0.05
  done
}

"$rowtide" dev --dir "$dir/dev" --listen 127.0.0.1:0 >"$dir/dev.log" 2>&1 &
pids+=($!)
until_there "$dir/dev.log" '^watch a user'
address=$(sed -n 's|^ready http://||p' "$dir/dev.log")
database=$(sed -n "s|^psql '\(.*\)'|\1|p" "$dir/dev.log")

for user in u1 u2; do
  "$rowtide" watch --user "$user" --dir "$dir/dev" --url "ws://$address/sync" >"$dir/$user.log" 2>"$dir/$user.err" &
  pids+=($!)
  until_there "$dir/$user.log" '^live$'
done

psql -qX "$database" -c "UPDATE file SET name = 'smoke one' WHERE id = 'f1'"
psql -qX "$database" -c "UPDATE file SET name = 'smoke two' WHERE id = 'f21'"
until_there "$dir/u1.log" '^file put .*"smoke one"'
until_there "$dir/u2.log" '^file put .*"smoke two"'
# The second edit has arrived, so the first would have.
if grep -q 'smoke one' "$dir/u2.log"; then
  echo "smoke: u2 was sent a row of u1's" >&2
  exit 1
fi
echo "smoke: an edit with psql arrived at the right person, and at no other"

# The JavaScript client stays connected while a column is added, and has it.
command -v node >/dev/null || { echo "smoke: there is no node: the JavaScript client is left out" >&2; exit 0; }
token=$(sed -n 's|^token u1 ||p' "$dir/dev.log")
node --experimental-websocket --no-warnings --input-type=module - "$address" "$token" >"$dir/js.log" 2>&1 <<'JS' &
import { createClient } from './clients/js/client/src/index.js';
const [address, token] = process.argv.slice(2);
const client = createClient({ url: `ws://${address}/sync`, token: () => token });
client.status.subscribe(({ connection }) => console.log('status', connection));
const file = client.table('file').where({ id: 'f1' });
file.subscribe(() => console.log('file', JSON.stringify(file.all()[0])));
JS
pids+=($!)
until_there "$dir/js.log" '^status live'
psql -qX "$database" -c "ALTER TABLE file ADD COLUMN stars int DEFAULT 3" -c "UPDATE file SET stars = 4 WHERE id = 'f1'"
until_there "$dir/js.log" '^file .*"stars":4'
if sed '1,/^status live/d' "$dir/js.log" | grep '^status' | grep -qv live; then
  echo "smoke: the JavaScript client lost its connection when a column was added" >&2
  exit 1
fi
echo "smoke: a column that is added is told to the JavaScript client, which stays connected"
