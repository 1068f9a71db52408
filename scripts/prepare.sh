#!/usr/bin/env bash
# Sees to it that there are PostgreSQL's server binaries and a Rust toolchain, with `js` also Chromium
# and what the tests in a browser need, and says what is missing where it cannot.
set -euo pipefail
cd "$(dirname "$0")/.."

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

# install WHAT PACKAGE…: from Debian or Ubuntu, if that is what this is.
install() {
  local what=$1 sudo=""
  shift
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      sudo="sudo -n"
    else
      echo "$what is needed: sudo apt-get install $*" >&2
      exit 1
    fi
  fi
  echo "installing $what …"
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

if ! { found && command -v psql >/dev/null; }; then
  # Without a cluster of the distribution's own: only the binaries are needed.
  if ! { install "PostgreSQL's server" postgresql postgresql-client && found; }; then
    echo "PostgreSQL's server is needed (14 or newer): install it from your distribution" \
      "(Fedora: dnf install postgresql-server; macOS: brew install postgresql@17)," \
      "or name the directory of its binaries in ROWTIDE_PG_BIN." >&2
    exit 1
  fi
fi

[ "${1:-}" = js ] || exit 0

if ! node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' 2>/dev/null; then
  echo "Node 20 or newer is needed for the JavaScript client's tests." >&2
  exit 1
fi

if ! [ -x "${ROWTIDE_CHROMIUM:-/usr/bin/chromium}" ] && ! install Chromium chromium; then
  echo "Chromium is needed: name its executable in ROWTIDE_CHROMIUM." >&2
  exit 1
fi

# The application links to the client's packages, and those to what they were tested with.
for dir in clients/js examples/files/web examples/notes/web; do
  if ! [ "$dir/node_modules/.package-lock.json" -nt "$dir/package-lock.json" ]; then
    npm ci --prefix "$dir" --no-audit --no-fund --loglevel=error
  fi
done
