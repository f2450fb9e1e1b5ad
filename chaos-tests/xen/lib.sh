# shellcheck shell=bash
# What the scripts share that make images.

# libraries LAB TREE PROGRAM...: copies what the programs are linked with, of Xen
# what fetch.sh brought.
libraries() {
  local xen=$1/root/usr/lib/x86_64-linux-gnu tree=$2 library
  shift 2
  mkdir -p "$tree/lib" "$tree/lib64"
  for program in "$@"; do
    # ldd fails for what is no program, or a static one: nothing to copy then.
    { LD_LIBRARY_PATH=$xen ldd "$program" 2>/dev/null || true; } |
      sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/lib64[^ ]*\).*/\1/p'
  done | sort -u | while read -r library; do
    case $library in
      /lib64/*) cp -L "$library" "$tree/lib64/" ;;
      *) cp -L "$library" "$tree/lib/" ;;
    esac
  done
}

# image TREE FILE: an archive that a kernel unpacks at its start. Not compressed:
# the emulated processor would take longer to unpack it than to copy it.
image() { (cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet) >"$2"; }
