#!/bin/bash
# Boots Xen with a Debian dom0 on an emulated machine, has dom0 go through some
# scenarios (dom0/main), and ends with the machine:
#   boot.sh DIR OUT SECONDS CLOCK DAEMON SCENARIOS [FILE...]
# DIR       what fetch.sh and build.sh filled
# OUT       gets console.log (Xen's and dom0's console) and report.log (marks, trees
#           and figures)
# SECONDS   of this machine, after which that one is ended
# CLOCK     "counted": its time is what its processor does, a nanosecond an instruction, and
#           it skips what the processor would wait; "passing": its time is this machine's
# DAEMON    a script that starts the xenstore daemon inside dom0 (dom0/daemons)
# SCENARIOS names of scenarios (dom0/scenarios), separated by spaces
# FILE      goes into dom0's /opt, with its shared libraries; the one named "fire" is
#           run in the background during the scenarios, and is to exit with 0 at SIGTERM
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lab=$(realpath "$1")
out=$2 seconds=$3 clock=$4 daemon=$5 scenarios=$6
shift 6
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

tree=$out/tree
rm -rf "$tree" "$out"/*.log
mkdir -p "$tree/opt"
cp "$daemon" "$tree/opt/daemon"
tr ' ' '\n' <<<"$scenarios" >"$tree/opt/scenarios"
if [ $# -gt 0 ]; then
  cp "$@" "$tree/opt/"
  libraries "$lab" "$tree" "$@"
  # What is for debuggers would fill dom0's memory. Scripts have nothing of that.
  strip "$tree"/opt/* 2>/dev/null || true
fi
image "$tree" "$out/opt.cpio"
# A kernel unpacks archives one after the other.
cat "$lab/dom0.cpio" "$out/opt.cpio" >"$out/dom0.cpio"
rm -rf "$tree" "$out/opt.cpio"

# An emulated processor does a tenth of what a real one does. Where its time is counted,
# it lives as a slow real one does, and nothing that happens on this machine reaches it.
case $clock in
  counted) clock=(-icount 'shift=0,sleep=off') ;;
  passing) clock=() ;;
  *) echo "boot.sh: clock is \"$clock\"; counted or passing" >&2; exit 1 ;;
esac

# The processor's flags: with SMAP dom0 faults at once, RDTSCP hangs PVH guests,
# and with XSAVE or PKU processes in dom0 segfault at random while a guest runs.
# No comma may stand inside a module's arguments, where it ends the module.
result=0
timeout "$seconds" qemu-system-x86_64 -accel tcg "${clock[@]}" -cpu max,-smap,-avx,-avx2,-rdtscp,-pku,-xsave -smp 1 -m 4G \
  -display none -nodefaults -no-user-config -monitor none -no-reboot \
  -serial "file:$out/console.log" -serial "file:$out/report.log" \
  -kernel "$lab/xen" -append "console=com1 com1=115200,8n1 dom0_mem=1024M,max:1024M loglvl=all guest_loglvl=all" \
  -initrd "$lab/vmlinux console=hvc0 rdinit=/init panic=5 loglevel=4,$out/dom0.cpio" </dev/null || result=$?
rm -f "$out/dom0.cpio"
[ "$result" != 124 ] || echo "boot.sh: not through after $seconds s" >&2
exit "$result"
