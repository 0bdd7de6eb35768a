#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest of check_memory.sh. It keeps a file in memory while the host plugs and
# unplugs memory: new memory is movable, so the file lies there first, and must leave before an unplug.
# shellcheck source=tests/linux/init_head.sh
. /head
[ -z "$failed" ] || fail "insmod of$failed"

total() {
  sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo
}

boot=$(total)
echo "guest: up"
round=0
while [ "$round" -lt 2 ]; do
  round=$((round + 1))
  until [ "$(total)" -ge $((boot + 240 * 1024)) ]; do sleep 1; done
  dd if=/dev/urandom of=/tmp/kept bs=64k count=256 2>/dev/null || fail "no room for 16 MiB"
  kept=$(sha256sum </tmp/kept)
  # Of the file's 4096 pages.
  new=$(awk '/, zone/ { zone = $4 } zone == "Movable" && /nr_zone_(in)?active_anon/ { pages += $2 }
    END { print pages + 0 }' /proc/zoneinfo)
  [ "$new" -ge 1024 ] || fail "round $round: the file is not in the new memory: $new pages"
  echo "guest: plugged $round"
  until [ "$(total)" -le $((boot + 1024)) ]; do sleep 1; done
  [ "$(sha256sum </tmp/kept)" = "$kept" ] || fail "round $round: the file after the unplug"
  echo "guest: unplugged $round"
done
echo "guest: good"
poweroff -f
