#!/bin/bash
# Makes what the lab boots, from what fetch.sh brought and from this machine's
# busybox, bash, dash, ip, flock, choom and start-stop-daemon:
#   build.sh DIR    leaves xen, vmlinux and dom0.cpio in DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lab=$(realpath "$1")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
xen_bin=$lab/root/usr/lib/xen-4.17/bin

# Not in the path of everybody: depmod.
PATH=$PATH:/usr/sbin:/sbin
for tool in qemu-system-x86_64 gcc busybox bash dash ip flock choom start-stop-daemon cpio depmod ldd python3 xz zstd lz4; do
  command -v "$tool" >/dev/null || { echo "build.sh: no $tool on this machine" >&2; exit 1; }
done

# skeleton TREE: directories, and busybox under all its names.
skeleton() {
  rm -rf "$1"
  mkdir -p "$1"/{bin,sbin,usr/bin,usr/sbin,usr/lib,proc,sys,dev,tmp,run,etc,lib,lib64,root,opt,var/lib/xen,var/log/xen}
  cp "$(command -v busybox)" "$1/bin/busybox"
  for applet in $("$1/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$1/bin/$applet"
  done
}

# modules TREE VERSION NAME...: kernel modules, what they depend on, and a list
# in the order in which they are to be loaded.
modules() {
  local tree=$1 from=$lab/root/lib/modules/$2 line file
  [ -s "$from/modules.dep" ] || depmod -b "$lab/root" "$2"
  shift 2
  mkdir -p "$tree/modules"
  for module in "$@"; do
    line=$(grep -E "(^|/)$module\.ko:" "$from/modules.dep")
    # The line names each module's needs in reverse order.
    for file in $(tr ' ' '\n' <<<"${line#*:}" | tac) "${line%%:*}"; do
      [ -e "$tree/modules/$(basename "$file")" ] && continue
      cp "$from/$file" "$tree/modules/"
      basename "$file" >>"$tree/modules/order"
    done
  done
}

# xenstore_tools TREE: Xen's command line clients, which are one program.
xenstore_tools() {
  cp "$lab/root/usr/bin/xenstore" "$1/bin/"
  for tool in read write ls list rm watch exists chmod; do
    ln -sf xenstore "$1/bin/xenstore-$tool"
    # The scripts that set up network interfaces look for them there.
    ln -sf /bin/xenstore "$1/usr/bin/xenstore-$tool"
  done
  libraries "$lab" "$1" "$1/bin/xenstore"
}

guest() {
  local tree=$lab/guest version=$1
  skeleton "$tree"
  modules "$tree" "$version" xen-netfront xenfs
  xenstore_tools "$tree"
  # The guest's kernel calls these when dom0 asks for them.
  for way in poweroff reboot; do
    printf '#!/bin/sh\nexec /bin/busybox %s -f\n' $way >"$tree/sbin/$way"
    chmod 755 "$tree/sbin/$way"
  done
  install "$here/guest/init" "$tree/init"
  image "$tree" "$lab/guest.cpio"
}

# bare KIND FLAG...: a guest without an operating system, as an ELF file that says where it
# is entered.
bare() {
  local kind=$1
  shift
  gcc "$@" -O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables \
    -fno-tree-loop-distribute-patterns -mgeneral-regs-only -nostdlib -static -no-pie \
    -Wl,--build-id=none,-Ttext-segment=0x100000,-e,start,-z,norelro \
    -o "$lab/bare-$kind" "$here/bare/$kind.c" "$here/bare/guest.c"
}

dom0() {
  local tree=$lab/dom0 version=$1 program
  skeleton "$tree"
  modules "$tree" "$version" xen-evtchn xen-gntdev xen-gntalloc xenfs xen-privcmd xen-netback bridge
  xenstore_tools "$tree"
  for program in xl xenstored oxenstored xenconsoled xen-init-dom0 libxl-save-helper; do
    install -D "$xen_bin/$program" "$tree/usr/lib/xen-4.17/bin/$program"
    ln -s "/usr/lib/xen-4.17/bin/$program" "$tree/bin/$program"
    libraries "$lab" "$tree" "$xen_bin/$program"
  done
  # What Xen's scripts for network interfaces need beyond busybox.
  for program in bash ip flock; do
    rm -f "$tree/bin/$program"
    cp -L "$(command -v $program)" "$tree/bin/$program"
    libraries "$lab" "$tree" "$tree/bin/$program"
  done
  # How Debian starts the daemons, and what that takes, under the paths of its script.
  mkdir -p "$tree"/etc/{init.d,default} "$tree"/lib/{init,lsb}
  cp "$lab/root/etc/init.d/xen" "$tree/etc/init.d/"
  cp "$lab/root/usr/share/xen-utils-common/default.xen" "$tree/etc/default/xen"
  cp -r "$lab/root/usr/lib/xen-common" "$tree/usr/lib/"
  cp /lib/init/vars.sh "$tree/lib/init/"
  cp /lib/lsb/init-functions "$tree/lib/lsb/"
  for program in bin/dash sbin/start-stop-daemon usr/bin/choom; do
    rm -f "$tree/$program"
    cp -L "$(command -v "${program##*/}")" "$tree/$program"
    libraries "$lab" "$tree" "$tree/$program"
  done
  # Loaded when a thread ends, so not among what ldd knows; xl aborts without it.
  cp -L /usr/lib/x86_64-linux-gnu/libgcc_s.so.1 "$tree/lib/"
  mkdir -p "$tree/etc/xen"
  cp -a "$lab"/root/etc/xen/{scripts,oxenstored.conf,xl.conf} "$tree/etc/xen/"
  cp -r "$here"/dom0/{main,lib,daemons,scenarios,*.cfg} "$lab/vmlinux-guest" "$lab/guest.cpio" "$lab"/bare-* "$tree/root/"
  install "$here/dom0/init" "$tree/init"
  image "$tree" "$lab/dom0.cpio"
}

full=$(cd "$lab/root/lib/modules" && printf '%s\n' * | grep -v cloud)
cloud=$(cd "$lab/root/lib/modules" && printf '%s\n' * | grep cloud)
zcat "$lab/root/boot/xen-4.17-amd64.gz" >"$lab/xen"
python3 "$here/vmlinux.py" "$lab/root/boot/vmlinuz-$full" "$lab/vmlinux"
python3 "$here/vmlinux.py" "$lab/root/boot/vmlinuz-$cloud" "$lab/vmlinux-guest"
guest "$cloud"
bare pv -m64 -mno-red-zone
bare pvh -m32
dom0 "$full"
