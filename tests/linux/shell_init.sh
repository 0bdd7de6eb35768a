#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest of `./dev linux`: a shell, on the virtio console if the command line has
# console=hvc0, whose driver is loaded here. Its end switches the machine off.
# shellcheck source=tests/linux/init_head.sh
. /head
export TERM=linux
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
hostname underfoot
if grep -qw console=hvc0 /proc/cmdline && [ -c /dev/hvc0 ]; then
  exec </dev/hvc0 >/dev/hvc0 2>&1
fi
echo
echo "Linux $(uname -r) as a guest of Underfoot: $(nproc) CPUs. Its disks: $(echo /dev/vd?)"
echo "\`exit\` or \`poweroff -f\` switches it off, Ctrl-] too."
cd /root || exit
setsid cttyhack sh
poweroff -f
