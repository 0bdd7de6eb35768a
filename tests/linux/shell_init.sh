#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest of `./dev linux`: a shell, on the virtio console if the command line has
# console=hvc0, whose driver is loaded here. Its end switches the machine off.
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
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
