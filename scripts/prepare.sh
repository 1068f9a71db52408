#!/usr/bin/env bash
# Sees to it that there are PostgreSQL's server binaries and a Rust toolchain, and says what is
# missing where it cannot.
set -euo pipefail

if ! command -v cargo >/dev/null; then
  echo "Rust is needed: install it with rustup, then run this again." >&2
  exit 1
fi

found() {
  [ -n "${ROWTIDE_PG_BIN:-}" ] && [ -x "$ROWTIDE_PG_BIN/initdb" ] && return 0
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && return 0
  ls /opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb >/dev/null 2>&1 && return 0
  command -v initdb >/dev/null
}

found && command -v psql >/dev/null && exit 0

if command -v apt-get >/dev/null; then
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      sudo="sudo -n"
    else
      echo "PostgreSQL's server is needed: sudo apt-get install postgresql" >&2
      exit 1
    fi
  fi
  echo "installing PostgreSQL …"
  # Without a cluster of the distribution's own: only the binaries are needed.
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql postgresql-client >/dev/null
  found && exit 0
fi

echo "PostgreSQL's server is needed (14 or newer): install it from your distribution" \
  "(Fedora: dnf install postgresql-server; macOS: brew install postgresql@17)," \
  "or name the directory of its binaries in ROWTIDE_PG_BIN." >&2
exit 1
