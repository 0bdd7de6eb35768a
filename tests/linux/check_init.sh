#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest of `./dev check-linux`. check_host.sh has made the disks: vda, an ext4
# file system with a tree of files and their checksums, and vdb, which is read-only. What is wrong is
# printed, and the machine is reset, which is not how a good run ends.
# shellcheck source=tests/linux/init_head.sh
. /head
[ -z "$failed" ] || fail "insmod of$failed"

# The value of NAME=VALUE on the kernel's command line.
argument() {
  tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"
}

[ "$(nproc)" = "$(argument check_cpus)" ] || fail "$(nproc) CPUs"
grep -q kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource ||
  fail "no kvm-clock: $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)"
for disk in vda vdb; do
  [ -b "/dev/$disk" ] || fail "no disk $disk"
done
[ "$(cat /sys/block/vdb/ro)" = 1 ] || fail "vdb is not read-only"
mount -t ext4 /dev/vda /mnt || fail "mount of vda"
echo "guest: up, $(nproc) CPUs"

# Bytes that stay in this guest's memory while the host moves it.
dd if=/dev/urandom of=/tmp/kept bs=64k count=64 2>/dev/null || fail "no room for 4 MiB in memory"
kept=$(sha256sum </tmp/kept)

round=0
while [ "$round" -lt "$(argument check_rounds)" ]; do
  round=$((round + 1))
  echo 3 >/proc/sys/vm/drop_caches
  (cd /mnt/tree && sha256sum -s -c ../checksums) || fail "round $round: the tree on the disk"
  [ "$(sha256sum </dev/vdb)" = "$(cat /mnt/vdb.checksum)" ] || fail "round $round: vdb"
  cp -r /mnt/tree "/mnt/copy$round" || fail "round $round: cp"
  dd if=/tmp/kept of=/mnt/kept bs=64k conv=fsync 2>/dev/null || fail "round $round: dd with fsync"
  sync
  echo 3 >/proc/sys/vm/drop_caches
  (cd "/mnt/copy$round" && sha256sum -s -c ../checksums) || fail "round $round: the copy"
  [ "$(sha256sum </mnt/kept)" = "$kept" ] || fail "round $round: what was written with fsync"
  [ "$(sha256sum </tmp/kept)" = "$kept" ] || fail "round $round: what lay in memory"
  [ "$round" = 1 ] || rm -r "/mnt/copy$round"
  if [ "$(cat /sys/block/vda/queue/discard_max_bytes)" != 0 ]; then
    fstrim /mnt || fail "round $round: fstrim"
    echo "guest: trimmed"
  fi
  echo "guest: round $round"
done

dd if=/dev/hwrng of=/mnt/random bs=4096 count=8 2>/dev/null || fail "the entropy device"
# Random bytes cannot be compressed.
[ "$(gzip -c </mnt/random | wc -c)" -gt 32768 ] || fail "the entropy device: no random bytes"
# A device that is read-only refuses a write.
! dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync 2>/dev/null || fail "vdb takes writes"
echo "$kept" >/mnt/result
umount /mnt || fail "umount"
echo "guest: good"
case $(argument check_end) in
  reboot) reboot -f ;;
  panic) echo c >/proc/sysrq-trigger ;;
  *) poweroff -f ;;
esac
