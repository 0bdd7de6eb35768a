#!/bin/busybox sh
# shellcheck shell=dash
# control.sh SECONDS KERNEL INITRD QEMU OPTION...: boots control_init.sh in Linux guests of QEMU, one after the
# other, and begins none after SECONDS. Exit code 3: one of them has died, hung, or found wrong bytes.
# For `./dev check-linux`, inside the machine of stock_kvm.sh, if guests of ours have died there.
seconds=$1 kernel=$2 initrd=$3
shift 3

uptime() { cut -d. -f1 /proc/uptime; }

end=$(($(uptime) + seconds)) boots=0
while [ "$(uptime)" -lt $end ]; do
  boots=$((boots + 1))
  timeout -s KILL 60 "$@" -M microvm,pit=off,pic=off,rtc=on -accel kvm -cpu host -smp 2 -m 192M \
    -nodefaults -no-user-config -no-reboot -display none -monitor none -serial stdio \
    -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 reboot=t panic=-1 quiet noxsave" \
    </dev/null >output 2>&1
  if ! grep -q "guest: good" output || grep -q "guest: FAILED" output; then
    tail -20 output
    echo "control.sh: guest $boots of QEMU has died, hung, or found wrong bytes"
    exit 3
  fi
done
[ $boots -gt 0 ] || exit 1
echo "control.sh: good: $boots guests of QEMU"
