#!/bin/sh
# Fails if modules of a crate import each other in a circle; between crates cargo refuses it by itself.
# A module is a file directly in `src`, together with the files in its directory. What comments name, and what tests
# import, does not count.
set -eu
cd "$(dirname "$0")/.."
# Crates that still have circles. A crate leaves this list, and never comes back.
old='rowtide-client rowtide-engine rowtide-log rowtide-plan'
status=0
for crate in crates/*/; do
  name=$(basename "$crate")
  case " $old " in *" $name "*) continue ;; esac
  edges=$(
    find "$crate/src" -name '*.rs' ! -name lib.rs ! -name main.rs ! -name tests.rs ! -path '*/model/*' |
      while read -r file; do
        module=${file#"$crate"/src/}
        module=${module%%/*}
        module=${module%.rs}
        sed -e '/^#\[cfg(test)\]$/,$d' -e 's|//.*||' "$file" |
          grep -o 'crate::[a-z_][a-z_0-9]*' | sed 's/crate:://' | sort -u |
          while read -r other; do
            if [ "$other" != "$module" ] &&
              { [ -e "$crate/src/$other.rs" ] || [ -d "$crate/src/$other" ]; }; then
              echo "$module $other"
            fi
          done
      done
  )
  # tsort names the members of a circle.
  if ! circle=$(printf '%s\n' "$edges" | tsort 2>&1 >/dev/null) || [ -n "$circle" ]; then
    echo "$name: modules import each other in a circle:" >&2
    echo "$circle" | sed 's/^tsort: /  /' >&2
    status=1
  fi
done
exit $status
