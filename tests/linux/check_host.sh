#!/bin/busybox sh
# shellcheck shell=dash
# check_host.sh PROGRAM KERNEL INITRD VCPUS ROUNDS END EXPECTED OPTION...: runs check_init.sh in a Linux
# guest of PROGRAM (`underfoot`) with these options, and looks at its disk afterwards: e2fsck, and the
# content file by file. END is poweroff, reboot or panic, EXPECTED the exit code of PROGRAM. With CHECK_TEXT in the
# environment the run must print that.
# For `./dev check-linux`, inside the machine of stock_kvm.sh.
program=$1 kernel=$2 initrd=$3 vcpus=$4 rounds=$5 end=$6 expected=$7
shift 7

fail() {
  echo "check_host.sh: $*" >&2
  exit 1
}

work=$(mktemp -d)
cd "$work" || exit
mkdir -p new/tree/a/b/c
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
  dd if=/dev/urandom of="new/tree/a/file$i" bs=1k count=$((i * 16)) 2>/dev/null
  dd if=/dev/urandom of="new/tree/a/b/c/small$i" bs=100 count=$i 2>/dev/null
done
(cd new/tree && find . -type f | sort | xargs sha256sum) >new/checksums
dd if=/dev/urandom of=vdb bs=64k count=16 2>/dev/null
sha256sum <vdb >new/vdb.checksum
cp new/checksums new/vdb.checksum .
/sbin/mke2fs -q -F -t ext4 -d new vda 64M || fail "mke2fs"
rm -r new

# QEMU's software CPU has no XSETBV for guests of guests.
{
  "$program" run --kernel "$kernel" --initrd "$initrd" --vcpus "$vcpus" --disk vda --disk vdb,ro \
    --append "noxsave quiet check_cpus=$vcpus check_rounds=$rounds check_end=$end" --duration 8m "$@"
  echo $? >status
} 2>&1 | tee log
status=$(cat status)
[ "$status" -eq "$expected" ] || fail "exit code $status of the run; $expected expected"
# A panic has one exit code at the end and before it.
grep -q "guest: good" log || fail "the guest has not come to its end"
[ "$end" != panic ] || [ "$(sed -n '/^FAILED:/,/^$/p' log | grep -c '^  ')" -eq 1 ] ||
  fail "the run has failed by more than the panic"

/sbin/e2fsck -f -n vda >fsck 2>&1 || fail "e2fsck: $(cat fsck)"
[ -z "$CHECK_TEXT" ] || grep -qF "$CHECK_TEXT" log || fail "the run does not say '$CHECK_TEXT'"
mkdir out
/sbin/debugfs -R "rdump / out" vda >/dev/null 2>&1
(cd out/tree && sha256sum -s -c ../../checksums) || fail "the tree is not as it was"
(cd out/copy1 && sha256sum -s -c ../../checksums) || fail "the guest's copy of the tree is wrong"
[ "$(sha256sum <out/kept)" = "$(cat out/result)" ] || fail "what the guest wrote with fsync is wrong"
[ "$(wc -c <out/random)" -eq 32768 ] || fail "no 32 KiB of random bytes"
[ "$(sha256sum <vdb)" = "$(cat vdb.checksum)" ] || fail "the read-only disk was written"
echo "check_host.sh: good: $(wc -l <checksums) files, $rounds rounds, $*"
