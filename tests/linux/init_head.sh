#!/bin/busybox sh
# shellcheck shell=dash
# The beginning of the first process of each guest, which initrd.sh leaves in /head for it: the file
# systems, and the drivers in their order. `failed` names the drivers that could not be loaded.
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
failed=
while read -r module; do
  insmod "/modules/$module.ko" || failed="$failed $module"
done </modules/order

# Says what is wrong, and resets the machine, which is not how a good run ends.
fail() {
  echo "guest: FAILED: $*"
  sync
  reboot -f
}
