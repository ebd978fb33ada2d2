#!/usr/bin/env bash
# Checks and tests every module of the project.
#
#   ./test.sh              everything, about 25 minutes on two cores at most
#   ./test.sh -fuzz 30s    afterwards, every fuzz target for 30 s each
#   ./test.sh -soak        afterwards, the long soak tests
#
# As root on a Debian machine it installs what the tests need. Elsewhere it
# runs what can be run, and the tests say what they skipped and why. With CI
# set nothing may be skipped: PALISADE_REQUIRE_ALL=1 turns a skip into a failure.
set -euo pipefail
cd "$(dirname "$0")"

fuzz="" soak=""
while [ $# -gt 0 ]; do
  case "$1" in
    -fuzz) fuzz="${2:?-fuzz needs a duration, such as 30s}"; shift 2 ;;
    -soak) soak=1; shift ;;
    *) echo "test.sh: unknown flag $1; usage: ./test.sh [-fuzz DURATION] [-soak]" >&2; exit 2 ;;
  esac
done
if [ -n "${CI:-}" ]; then export PALISADE_REQUIRE_ALL=1; fi

say() { printf '\n== %s\n' "$*"; }

# Debian packages, and the programs by which we know that they are there.
packages=(mariadb-server:mariadbd prometheus:promtool openssl:openssl curl:curl nginx:nginx haproxy:haproxy
  nftables:nft iproute2:ip redis-server:redis-server chromium:chromium strace:strace gcc:gcc nodejs:node wrk:wrk)

install_packages() {
  local missing=() p
  for p in "${packages[@]}"; do
    command -v "${p#*:}" >/dev/null || [ -x "/usr/sbin/${p#*:}" ] || missing+=("${p%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not root on Debian, so these are not installed and their tests are skipped: ${missing[*]}"
    return 0
  fi
  say "installing ${missing[*]}"
  # Tests start their own servers; a package must not start one.
  local policy=/usr/sbin/policy-rc.d made=""
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  if [ -n "$made" ]; then rm -f $policy; fi
}

# Go programs that the tests run, kept outside the tree between runs.
install_tools() {
  local bin="${XDG_CACHE_HOME:-$HOME/.cache}/palisade/bin"
  mkdir -p "$bin"
  export PATH="$bin:$PATH:/usr/sbin"
  command -v staticcheck >/dev/null || GOBIN="$bin" go install honnef.co/go/tools/cmd/staticcheck@v0.8.2 || true
  command -v pebble >/dev/null && command -v pebble-challtestsrv >/dev/null ||
    GOBIN="$bin" go install github.com/letsencrypt/pebble/v2/cmd/...@v2.10.1 || true
  if [ -n "${CI:-}" ]; then command -v staticcheck pebble pebble-challtestsrv >/dev/null; fi
}

check_module() {
  say "$1: format, vet, fix, staticcheck"
  local unformatted
  unformatted=$(find . -name '*.go' -not -path '*/testdata/*' -exec gofmt -l {} +)
  if [ -n "$unformatted" ]; then echo "gofmt would change:"; echo "$unformatted"; return 1; fi
  go vet ./...
  go vet -tags soak,figures ./...
  local diff
  diff=$(go fix -diff ./...)
  if [ -n "$diff" ]; then echo "go fix would change:"; echo "$diff"; return 1; fi
  if command -v staticcheck >/dev/null; then staticcheck ./...; else echo "staticcheck is not installed: skipped"; fi
}

# The race detector allocates for itself: tests that count allocations or memory
# are in files that are built without it.
test_memory() {
  local files names
  files=$(go list -f '{{range .TestGoFiles}}{{$.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$.Dir}}/{{.}}{{"\n"}}{{end}}' ./... |
    sed "s|^$PWD/|./|" | xargs -r grep -l '^//go:build !race' || true)
  [ -n "$files" ] || return 0
  names=$(sed -n 's/^func \(Test[A-Za-z0-9_]*\)(.*/\1/p' $files | paste -sd '|')
  [ -n "$names" ] || return 0
  say "$1: go test, without the race detector: $names"
  go test -count=1 -p 1 -timeout 5m -run "^($names)\$" $(dirname $files | sort -u)
}

test_module() {
  say "$1: go test -race -shuffle=on"
  go test -race -shuffle=on -count=1 -p 1 -timeout 15m ./...
}

modules() { find . -name go.mod -not -path "*/testdata/*" -exec dirname {} \; | sort; }

fuzz_module() {
  local pkg target
  for pkg in $(go list ./...); do
    for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
      say "fuzz $pkg $target for $fuzz"
      go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzz" "$pkg"
    done
  done
}

install_packages
install_tools
for m in $(modules); do (cd "$m" && check_module "$m"); done
for m in $(modules); do (cd "$m" && test_module "$m" && test_memory "$m"); done
if [ -n "$fuzz" ]; then for m in $(modules); do (cd "$m" && fuzz_module); done; fi
if [ -n "$soak" ]; then
  for m in $(modules); do (cd "$m" && say "$m: soak" && go test -tags soak -run Soak -count=1 -timeout 60m ./...); done
fi
say "all modules passed"
