#!/bin/bash
# Fetches what the comparison tests need and unpacks it, without installing
# anything:
#   fetch.sh DIR daemons   Debian's xenstored, oxenstored, client tools and
#                          test-xenstore, and the stub that runs them
#   fetch.sh DIR pyxs      the sources of pyxs, a Python client with tests
# DIR also holds xenfake.c. Does nothing when it was done before.
set -euo pipefail
dir=$(realpath "$1") what=$2 here=$(cd "$(dirname "$0")" && pwd)
xen=4.17
mkdir -p "$dir"
cd "$dir"
exec 9>"$dir/lock"
flock 9

say() { echo "fetch.sh: $*" >&2; }

# Package lists may be absent on a fresh machine; only root can bring them.
apt_retry() {
  "$@" && return 0
  [ "$(id -u)" = 0 ] || { say "failed as $(id -un): '$*' (try 'apt-get update' first)"; return 1; }
  apt-get update -q && "$@"
}

daemons() {
  local root=$dir/root debs=$dir/debs stamp=$dir/daemons.done
  if [ ! -e "$stamp" ]; then
    command -v apt-get >/dev/null || { say "no apt-get: Debian's daemons cannot be had here"; return 1; }
    rm -rf "$debs" "$root"
    mkdir -p "$debs" "$root"
    (cd "$debs" && apt_retry apt-get download -q xen-utils-$xen xen-utils-common xenstore-utils libxen-dev libxencall1 \
      libxendevicemodel1 libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenmisc$xen \
      libxenstore4 libxentoolcore1 libxentoollog1 libyajl2)
    for deb in "$debs"/*.deb; do dpkg -x "$deb" "$root"; done
    touch "$stamp"
  fi
  if [ ! -e libxenfake.so ] || [ "$here/xenfake.c" -nt libxenfake.so ]; then
    command -v gcc >/dev/null || { say "no gcc: the stub cannot be built"; return 1; }
    gcc -O1 -shared -fPIC -Wall -I "$root/usr/include" -o libxenfake.so.new "$here/xenfake.c" -ldl
    mv libxenfake.so.new libxenfake.so
  fi
}

# The tests of pyxs are in the sources that Debian has, not in the sdist. They
# come through apt with the machine's sources turned into source entries and lists
# of our own: the machine's lists are not ours to change.
pyxs() {
  local apt=$dir/apt
  [ ! -e pyxs/tests/test_client.py ] || [ ! -e venv/bin/pytest ] || return 0
  command -v python3 >/dev/null || { say "no python3: pyxs cannot be run"; return 1; }
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$dir/src"
  sed 's/^deb /deb-src /' /etc/apt/sources.list /etc/apt/sources.list.d/*.list > "$apt/src.list" 2>/dev/null || true
  sed -s '$G; s/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/*.sources > "$apt/src.sources" 2>/dev/null || true
  local options=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt"
    -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache")
  apt-get "${options[@]}" update
  # Only the upstream tarball matters; the packaging beside it may be missing.
  (cd src && apt-get "${options[@]}" source --download-only python-pyxs) || true
  local tarball
  tarball=$(ls src/python-pyxs_*.orig.tar.gz) || { say "no source of pyxs could be had"; return 1; }
  rm -rf pyxs pyxs.new
  mkdir pyxs.new
  tar -xzf "$tarball" -C pyxs.new --strip-components=1
  # Upstream skips its tests where /dev/xen is missing; a socket is enough.
  printf 'def virtualized(test):\n    return test\n' > pyxs.new/tests/__init__.py
  python3 -m venv venv
  venv/bin/pip install -q 'pytest<9'
  mv pyxs.new pyxs
}

case $what in
  daemons | pyxs) "$what" ;;
  *) say "daemons or pyxs, not '$what'"; exit 2 ;;
esac
