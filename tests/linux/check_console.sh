#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# check_console.sh PROGRAM KERNEL INITRD TTY: types at the shell of shell_init.sh, in a Linux guest of
# PROGRAM (`underfoot`) with --console, and reads what the shell answers. TTY: ttyS0, the serial port, or
# hvc0, the virtio console, which knows the size of the terminal. For `./dev check-linux`.
work=$(mktemp -d)
cd "$work" || exit
mkfifo keyboard
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
# The first terminal of this machine, /dev/pts/0.
script -qec "stty cols 101 rows 31; exec '$1' run --kernel '$2' --initrd '$3' \
  --append 'noxsave quiet console=$4' --memory 192M --console --duration 4m" /dev/null <keyboard >screen 2>&1 &
run=$!
exec 3>keyboard

# Waits until the screen shows a text, or the run has ended.
await() {
  until grep -q "$1" screen; do
    kill -0 $run 2>/dev/null || {
      cat screen
      echo "check_console.sh: the run has ended without showing '$1'"
      exit 1
    }
    sleep 1
  done
}

# What stands in single quotes is for the guest's shell.
await "switches it off"
await "# "  # the shell's prompt
echo 'echo console-$((6 * 7))-$(nproc)' >&3
await "console-42-2"
echo 'echo tty-$(tty)-' >&3
await "tty-/dev/$4-"
if [ "$4" = hvc0 ]; then
  echo 'echo size-$(stty size)-' >&3
  await "size-31 101-"
  stty -F /dev/pts/0 cols 90 rows 25
  # The screen shows what is typed, and the quotes are not part of the answer.
  echo 'until [ "$(stty size)" = "25 90" ]; do sleep 1; done; echo re""sized' >&3
  await "resized"
fi
echo exit >&3
wait $run
status=$?
[ $status -eq 0 ] || {
  cat screen
  echo "check_console.sh: exit code $status of the run"
  exit 1
}
echo "check_console.sh: good, $4"
