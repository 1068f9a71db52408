#!/usr/bin/env bash
# pack.sh [DIRECTORY]: makes a tarball of each JavaScript package, and leaves nothing else in the directory (target/packages). They
# are what is published, and what an application installs until then.
set -euo pipefail
cd "$(dirname "$0")/.."

directory="${1:-target/packages}"
mkdir -p "$directory"
directory="$(cd "$directory" && pwd)"
rm -f "$directory"/*.tgz

published() {
  node -p '
    const { readFileSync } = require("fs");
    const json = (path) => JSON.parse(readFileSync(`clients/js/${path}package.json`, "utf8"));
    json("").workspaces.filter((workspace) => !json(`${workspace}/`).private).join("\n")'
}

workspaces=()
for workspace in $(published); do workspaces+=(--workspace "$workspace"); done
npm pack --prefix clients/js --silent --pack-destination "$directory" "${workspaces[@]}" >/dev/null
ls "$directory"/*.tgz
