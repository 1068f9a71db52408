#!/usr/bin/env bash
# Installs the servers that `rowtide-bench rooms` measures beside Rowtide, into target/peers, and says what to give it.
# `scripts/peers.sh` installs y-websocket's server (MIT). `scripts/peers.sh tldraw` also installs tldraw's own room, which is
# not open source: its licence is for whoever runs this to look at, and nothing of it is part of Rowtide.
set -euo pipefail
cd "$(dirname "$0")/.."

peers="${CARGO_TARGET_DIR:-target}/peers"

# installed NAME PACKAGE…: in a directory of its own.
installed() {
  local dir="$peers/$1"
  shift
  mkdir -p "$dir"
  [ -f "$dir/package.json" ] || echo '{"private":true}' >"$dir/package.json"
  npm install --prefix "$dir" --no-audit --no-fund --no-package-lock --loglevel=error "$@" >&2
}

installed yjs @y/websocket-server@0.1.1 yjs@13.6.33
echo "--yjs-peer $peers/yjs/node_modules/@y/websocket-server/src/server.js"

[ "${1:-}" = tldraw ] || exit 0
installed tldraw @tldraw/sync-core@5.4.2 @tldraw/tlschema@5.4.2 react@19 react-dom@19 ws@8
cat >"$peers/tldraw/server.js" <<'SERVER'
// A room for each path, in memory, as tldraw's own example has it.
const { createServer } = require('node:http')
const { TLSocketRoom } = require('@tldraw/sync-core')
const { WebSocketServer } = require('ws')

const rooms = new Map()
const server = createServer()
const sockets = new WebSocketServer({ server })
sockets.on('connection', (socket, request) => {
	const url = new URL(request.url, 'http://localhost')
	let room = rooms.get(url.pathname)
	if (!room) rooms.set(url.pathname, (room = new TLSocketRoom({})))
	room.handleSocketConnect({ sessionId: url.searchParams.get('sessionId'), socket })
})
server.listen(Number(process.env.PORT), process.env.HOST)
SERVER
node -e "
const { createTLSchema } = require('$(realpath "$peers")/tldraw/node_modules/@tldraw/tlschema')
process.stdout.write(JSON.stringify(createTLSchema().serialize()))" >"$peers/tldraw/schema.json"
echo "--tlsync-peer $peers/tldraw/server.js --schema $peers/tldraw/schema.json"
