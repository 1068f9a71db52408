#!/usr/bin/env bash
# release.sh VERSION [--dry-run | --publish]: makes a release. The server, the crates and the JavaScript packages have one version,
# and CHANGELOG.md a heading for each.
#   release.sh VERSION            sets the version everywhere, makes the tarballs, and prints what is left to do
#   release.sh VERSION --dry-run  does the same, and takes the version back
#   release.sh VERSION --publish  publishes the tarballs of a commit in which the version is set
set -euo pipefail
cd "$(dirname "$0")/.."

version="${1:-}" mode="${2:-}"
fail() {
  echo "release.sh: $1" >&2
  exit 1
}

[[ "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || fail "name a version: scripts/release.sh 1.2.3"
[[ "$mode" =~ ^(|--dry-run|--publish)$ ]] || fail "there is --dry-run and --publish, and no $mode"
[ -z "$(git status --porcelain)" ] || fail "the tree is not clean: commit what is in it first (git status)"
grep -qxF "## $version" CHANGELOG.md || fail "CHANGELOG.md has no heading \"## $version\": name what is under \"## Unreleased\" so"

if [ "$mode" = --publish ]; then
  [ "$(node scripts/version.js)" = "$version" ] || fail "the version is $(node scripts/version.js): set it with scripts/release.sh $version, and commit"
  # The registry compares it with the repository in which a package was built, and refuses provenance without it.
  for manifest in $(node scripts/version.js --published); do
    grep -q '"repository"' "$manifest" || fail "$manifest names no repository, which provenance needs: \"repository\": { \"type\": \"git\", \"url\": … }"
  done
else
  [ "$mode" != --dry-run ] || trap 'git checkout --quiet -- .' EXIT
  node scripts/version.js "$version"
fi

tag=latest
[[ "$version" != *-* ]] || tag=next
scripts/pack.sh target/packages
commands=()
for tarball in target/packages/*.tgz; do commands+=("npm publish ./$tarball --access public --provenance --tag $tag"); done

if [ "$mode" = --publish ]; then
  for command in "${commands[@]}"; do $command; done
  exit 0
fi
echo
echo "Look at the difference, then:"
echo "  git commit --all --message 'Release $version' && git tag v$version"
echo "and, where the registry can see who builds (a job of the repository with an identity token), scripts/release.sh $version --publish, which does:"
printf '  %s\n' "${commands[@]}"
