#!/usr/bin/env bash
# Does what docs/client.md says under "A live list in five minutes", with the tarballs and with npm, pnpm and yarn side by side: a
# fresh application, both packages, its code; then installs something else, and looks whether the application still builds, has the
# types wherever TypeScript looks for them, and shows the list in a browser. It needs the registry, or what an earlier run has cached,
# and takes minutes: so it is only done if what is installed has changed since it last passed. scripts/packages-passed.txt has the hash
# of that. Nothing but a pass writes it. `scripts/packages.sh again` does it in any case.
set -euo pipefail
cd "$(dirname "$0")/.."

# Of the names and contents of what is packed, and of what it is tried with.
inputs() {
  find clients/js docs/client.md scripts/packages.sh scripts/packages.js scripts/pack.sh \
    examples/files/web/package-lock.json examples/files/web/src/schema.ts \
    \( -name node_modules -o -name test -o -name bench \) -prune -o -type f -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1
}
passed=scripts/packages-passed.txt
tried="$(inputs)"
if [ "${1:-}" != again ] && [ "$(cat "$passed" 2>/dev/null)" = "$tried" ]; then exit 0; fi
root="$PWD"
registry="$(npm config get registry)"

# The managers in one version each, and the templates of Vite; they stay in target/.
tools="$root/target/packages-tools"
wanted="create-vite@9.3.0 pnpm@12.21.0 @yarnpkg/cli-dist@4.18.1"
# How long one installation may take, in seconds, also on a machine that is busy.
patience=900

unreachable() {
  echo "The packages were not installed into fresh applications: $1 did not come from $registry." \
    "This needs a connection, or the caches that an earlier run of scripts/packages.sh has filled." >&2
}

if [ "$(cat "$tools/wanted" 2>/dev/null)" != "$wanted" ]; then
  mkdir -p "$tools"
  # shellcheck disable=SC2086
  if ! timeout "$patience" npm install --prefix "$tools" --prefer-offline --no-audit --no-fund --no-save --loglevel=error $wanted >"$tools/log" 2>&1; then
    cat "$tools/log" >&2
    unreachable "pnpm, yarn and create-vite"
    exit 1
  fi
  echo "$wanted" >"$tools/wanted"
fi
export PATH="$tools/node_modules/.bin:$PATH"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# What is cached is not asked for again.
export CI=1 npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false npm_config_prefer_offline=true
export YARN_NPM_REGISTRY_SERVER="${registry%/}" YARN_ENABLE_IMMUTABLE_INSTALLS=false YARN_ENABLE_TELEMETRY=false

# section LANGUAGE: the blocks of code of that language in docs/client.md's first section.
section() {
  awk -v fence="\`\`\`$1" '/^## /{ inside = /A live list in five minutes/ } /^```/{ if (code) code = 0; else if (inside && $0 == fence) { code = 1; next } } code' docs/client.md
}

scripts/pack.sh >/dev/null
section tsx >"$work/main.tsx"
documented="$(section sh | grep 'npm install .*\.tgz')"
node scripts/packages.js "$work"

# application MANAGER ADD…: a fresh application, in which `ADD…` installs what follows it.
application() {
  local manager=$1
  shift
  mkdir "$work/$manager"
  cd "$work/$manager"
  ln -s "$root" rowtide
  create-vite list --template react-ts --no-interactive
  cd list
  cp "$work/main.tsx" "$root/examples/files/web/src/schema.ts" src/
  # What the application is made of has the versions that the examples were tested with.
  node "$root/scripts/packages.js" --pin "$root/examples/files/web/package-lock.json"
  # esbuild, which one of the packages builds on, works without the script that it would run.
  [ "$manager" != pnpm ] || echo "strictDepBuilds: false" >pnpm-workspace.yaml
  [ "$manager" != yarn ] || { echo "nodeLinker: node-modules" >.yarnrc.yml; : >yarn.lock; }

  # As it is documented; then the other packages with what they build on, and something that has nothing to do with them.
  eval "$(sed "s/^npm install/timeout $patience $*/" <<<"$documented")" </dev/null
  mapfile -t others <"$work/others"
  timeout "$patience" "$@" "${others[@]}" nanoid@5 </dev/null

  # TypeScript looks for types once as a bundler does, and once as Node.
  PATH="$PWD/node_modules/.bin:$PATH"
  cp "$work/check.ts" src/
  cp "$work/tsconfig.check.json" .
  tsc -p tsconfig.app.json
  tsc -p tsconfig.check.json
  vite build
  grep -q client_too_old dist/assets/*.js || { echo "the built page does not contain the client" >&2; return 1; }
}

managers=(npm pnpm yarn)
declare -A running
for manager in "${managers[@]}"; do
  add=("$manager" add)
  [ "$manager" != npm ] || add=(npm install)
  (
    set -euo pipefail
    export -f application
    export root work documented patience
    bash -euo pipefail -c 'application "$@"' - "$manager" "${add[@]}"
  ) >"$work/$manager.log" 2>&1 &
  running[$manager]=$!
done

failed=0
for manager in "${managers[@]}"; do
  status=0
  wait "${running[$manager]}" || status=$?
  [ "$status" -eq 0 ] && continue
  failed=1
  echo "with $manager the packages do not work:" >&2
  cat "$work/$manager.log" >&2
  if [ "$status" -eq 124 ] || grep -qE 'ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ECONNRESET|ENOTCACHED' "$work/$manager.log"; then
    unreachable "what a fresh application is made of"
  fi
done
[ "$failed" -eq 0 ] || exit 1

node clients/js/test/opened.js "$work/npm/list/dist"
if [ "$(inputs)" != "$tried" ]; then
  echo "what is installed has changed meanwhile, so this says nothing of it" >&2
  exit 1
fi
echo "$tried" >"$passed"
echo "the packages install with npm, pnpm and yarn, and the documented application shows its list; commit $passed"
