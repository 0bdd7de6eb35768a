#!/bin/busybox sh
# shellcheck shell=dash
# check_memory.sh PROGRAM KERNEL INITRD OPTION...: runs memory_init.sh in a Linux guest of PROGRAM
# (`underfoot`) with these options, and plugs and unplugs memory by the control socket. For
# `./dev check-linux`, inside the machine of stock_kvm.sh.
program=$1 kernel=$2 initrd=$3
shift 3
work=$(mktemp -d)
cd "$work" || exit
"$program" run --kernel "$kernel" --initrd "$initrd" --vcpus 1 --memory 256M --hotplug-memory 256M \
  --append "noxsave quiet memhp_default_state=online_movable" --duration 8m \
  --control "$work/socket" "$@" >log 2>&1 &
run=$!

goes_on() {
  kill -0 $run 2>/dev/null || {
    cat log
    echo "check_memory.sh: the run has ended without $1"
    exit 1
  }
  sleep 1
}
# Waits until the guest has said this.
await() {
  until grep -q "$1" log; do goes_on "saying '$1'"; done
}
# reach COMMAND SIZE TEXT: sets a target, and waits until the guest has reached it. Each change of the
# target would interrupt the guest's driver again.
reach() {
  until "$program" "$1" --control "$work/socket" --set "$2" >answer 2>&1; do
    goes_on "an answer to $1 $2: $(cat answer)"
  done
  until grep -q "$3" answer; do
    head -1 answer
    goes_on "reaching $1 $2"
    "$program" "$1" --control "$work/socket" >answer 2>&1
  done
  cat answer
}

await "guest: up"
for round in 1 2; do
  reach memory 256M "256 MiB of 256 MiB"
  await "guest: plugged $round"
  reach balloon 16M "16 MiB of 16 MiB"
  grep -q "the guest has reported" answer || {
    echo "check_memory.sh: no report of the guest about its memory"
    exit 1
  }
  reach balloon 0 "0 bytes of 0 bytes"
  reach memory 0 "0 bytes of 0 bytes"
  await "guest: unplugged $round"
done
wait $run
status=$?
cat log
[ $status -eq 0 ] || {
  echo "check_memory.sh: exit code $status of the run"
  exit 1
}
echo "check_memory.sh: good: $*"
