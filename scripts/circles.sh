#!/bin/sh
# Fails if modules of a crate import each other in a circle; between crates cargo rejects it by itself.
# Files in one directory are modules beside each other, and a file is one module with the files in the directory
# of its name. What comments name, and what tests import, does not count.
set -eu
cd "$(dirname "$0")/.."

# Prints for each import which two modules beside each other it connects.
edges='
  # The paths of `path::{a, b}`, which are `path::a` and `path::b`.
  function expand(path, paths,    parts, count, i) {
    count = split(path, parts, /[{}, ]+/)
    split("", paths)
    if (count == 1) paths[1] = path
    for (i = 2; i <= count; i++) if (parts[i]) paths[i] = parts[1] parts[i]
  }
  # Notes which names of the files below it a file passes on: who imports one of them from it imports that file.
  function note_exports(from, text,    paths, i, name, below) {
    while (match(text, /pub(\([a-z]+\))? use (self::)?([a-z_0-9]+::)+([A-Za-z_0-9]+|\{[^{}]*\})/)) {
      below = substr(text, RSTART, RLENGTH)
      text = substr(text, RSTART + RLENGTH)
      sub(/.* use (self::)?/, "", below)
      expand(below, paths)
      for (i in paths) {
        name = below = paths[i]
        sub(/.*::/, "", name); sub(/::[^:]*$/, "", below); gsub(/::/, "/", below)
        if ((from below) in files) exports[from name] = from below
      }
    }
  }
  # From a file to the file that `crate::a::b` or `super::b` leads to.
  function edge(from, path,    names, to, i, at, a, b, beside) {
    split(path, names, "::")
    if (names[1] == "super") to = from
    for (i = 1; i in names; i++) {
      at = (to ? to "/" : "") names[i]
      if (names[i] == "super") { if (!sub(/\/[^\/]*$/, "", to)) to = "" }
      else if (at in files) to = at
      else if (at in exports) to = exports[at]
    }
    split(from, a, "/"); split(to, b, "/")
    for (i = 1; a[i] && a[i] == b[i]; i++) beside = beside a[i] "/"
    if (a[i] && b[i]) print beside a[i], beside b[i]
  }
  function print_edges(from, text,    paths, i) {
    while (match(text, /(crate|super)::([a-z_0-9]+::)*([A-Za-z_0-9]+|\{[^{}]*\})/)) {
      expand(substr(text, RSTART, RLENGTH), paths)
      text = substr(text, RSTART + RLENGTH)
      for (i in paths) edge(from, paths[i])
    }
  }
  FNR == 1 { module = FILENAME; sub(/.*\/src\//, "", module); sub(/(\/mod)?\.rs$/, "", module); in_tests = 0 }
  is_test && /^mod .*\{$/ { in_tests = 1 }
  { is_test = ($0 == "#[cfg(test)]"); sub(/\/\/.*/, ""); if (!in_tests) files[module] = files[module] $0 " " }
  END {
    for (module in files) note_exports(module == "lib" ? "" : module "/", files[module])
    for (module in files) if (module != "lib") print_edges(module, files[module])
  }
'

status=0
for crate in crates/*/; do
  name=$(basename "$crate")
  found=$(find "$crate/src" -name '*.rs' ! -name main.rs ! -name tests.rs ! -path '*/model/*' | xargs awk "$edges")
  # tsort names the members of a circle.
  if ! circle=$(printf '%s\n' "$found" | tsort 2>&1 >/dev/null) || [ -n "$circle" ]; then
    echo "$name: modules import each other in a circle:" >&2
    echo "$circle" | sed 's/^tsort: /  /' >&2
    status=1
  fi
done
exit $status
