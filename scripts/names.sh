#!/bin/sh
# Fails if two public types of the server have one name. What a state machine takes and gives may be called the same in
# each of them, because nobody uses two of them in one file. The client is not looked at: applications read its names,
# and none of the server's.
set -eu
cd "$(dirname "$0")/.."

allowed='Input Output Effect'

find crates/*/src -name '*.rs' ! -path 'crates/rowtide-client/*' ! -name tests.rs ! -path '*/model/*' -exec awk -v allowed="$allowed" '
  BEGIN { count = split(allowed, names, " "); for (i = 1; i <= count; i++) may[names[i]] = 1 }
  /^pub (struct|enum|trait|type|union) / {
    name = $3
    sub(/[^A-Za-z0-9_].*/, "", name)
    if (name in files && !(name in may)) { print name ": " files[name] ", " FILENAME; found = 1 }
    files[name] = FILENAME
  }
  END { exit found }
' {} + >&2
