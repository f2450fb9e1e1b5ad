#!/bin/bash
# Downloads Debian's Xen, its tools and two kernels, and unpacks them without
# installing anything:
#   fetch.sh DIR    DIR/root then holds them all
# Does nothing, and needs no network, when it was done before.
set -euo pipefail
xen=4.17
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9
[ ! -e fetched ] || exit 0

say() { echo "fetch.sh: $*" >&2; }

# Package lists may be absent on a fresh machine; only root can bring them.
download() {
  apt-get download -q "$@" && return 0
  [ "$(id -u)" = 0 ] || { say "nothing could be downloaded as $(id -un); is there a network? Try 'apt-get update' as root"; return 1; }
  apt-get update -q && apt-get download -q "$@" && return 0
  say "Debian's packages of Xen $xen could not be downloaded; is there a network, and is this Debian 12?"
  return 1
}

# The kernel that a metapackage stands for.
kernel_of() { apt-cache depends "$1" | awk '/Depends: linux-image-[0-9]/ { print $2; exit }'; }

command -v apt-get >/dev/null || { say "no apt-get: Debian's Xen cannot be had here"; exit 1; }
rm -rf debs root
mkdir debs root
(
  cd debs
  download xen-hypervisor-$xen-amd64 xen-utils-$xen xen-utils-common xenstore-utils libxencall1 libxendevicemodel1 \
    libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenmisc$xen libxenstore4 libxentoolcore1 \
    libxentoollog1 libyajl2
  # dom0 needs the whole kernel; that for clouds has no support for it, but is
  # smaller and has all that a guest needs.
  download "$(kernel_of linux-image-amd64)" "$(kernel_of linux-image-cloud-amd64)"
)
for deb in debs/*.deb; do dpkg -x "$deb" root; done
rm -rf debs
touch fetched
