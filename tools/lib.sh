# shellcheck shell=bash
# Sourced by the tools: where things are cached, how progress is told, how two runs at once stay apart.

cubed_cache=${CUBED_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cubed}

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# step TITLE COMMAND...: says what is being done, every 30 s for how long, and at the end how long it took.
# The command's output goes to a log whose end is shown when it fails. A function keeps errexit.
step() {
  local title=$1 started=$SECONDS next=30 status=0 log pid
  shift
  log=$(mktemp)
  say "==> $title…"
  set -m # its own process group, so that an interrupted step leaves nothing running
  (set -e +m; "$@") >"$log" 2>&1 </dev/null &
  pid=$!
  set +m
  # shellcheck disable=SC2064
  trap "kill -TERM -- -$pid 2>/dev/null; rm -f '$log'; exit 130" INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    ((SECONDS - started < next)) || { say "    … $((SECONDS - started)) s"; next=$((next + 30)); }
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if ((status != 0)); then
    tail -n 40 "$log" >&2
    say "==> $title: FAILED after $((SECONDS - started)) s (exit status $status)"
    rm -f "$log"
    exit "$status"
  fi
  rm -f "$log"
  ((SECONDS - started < 2)) || say "    done in $((SECONDS - started)) s"
}

# hash_of: 16 hexadecimal digits that stand for what is read from standard input.
hash_of() { sha256sum | cut -c1-16; }

# lock NAME: from here to the end of the script no other run works under the same name.
lock() {
  mkdir -p "$cubed_cache/locks"
  exec {lock_fd}>"$cubed_cache/locks/$1"
  if ! flock -n "$lock_fd"; then
    say "==> waiting for another run that prepares '$1'…"
    flock "$lock_fd"
  fi
}

# publish DIRECTORY FINAL: makes a finished directory appear whole, and FINAL's sibling `current` point to it.
publish() {
  [[ -d $2 ]] || mv -T "$1" "$2"
  point_current "$2"
}
point_current() {
  local link=${1%/*}/current
  [[ $(readlink "$link" 2>/dev/null) == "${1##*/}" ]] && return
  ln -sfn "${1##*/}" "$link.$$"
  mv -T "$link.$$" "$link"
}

# as_root COMMAND...: through sudo when not root already.
as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

# apt_candidate PACKAGE: the version apt would install, or nothing.
apt_candidate() { apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'; }

# Two tools may want apt at the same moment: wait for its lock.
apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@"; }

# download_package PACKAGE DIRECTORY: unpacks a binary package there without installing it.
download_package() {
  mkdir -p "$2"
  (cd "$2" && apt-get -q download "$1" && dpkg-deb -x ./*.deb . && rm -f ./*.deb)
}
