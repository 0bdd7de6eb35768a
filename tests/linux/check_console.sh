#!/bin/busybox sh
# shellcheck shell=dash
# check_console.sh PROGRAM KERNEL INITRD TTY: types at the shell of shell_init.sh, in a Linux guest of
# PROGRAM (`underfoot`) with --console, and reads what the shell answers. TTY: ttyS0, the serial port, or
# hvc0, the virtio console. For `./dev check-linux`.
work=$(mktemp -d)
cd "$work" || exit
mkfifo keyboard
"$1" run --kernel "$2" --initrd "$3" --append "noxsave quiet console=$4" --memory 192M --console --duration 4m \
  <keyboard >screen 2>&1 &
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

await "switches it off"
await "# "  # the shell's prompt
# shellcheck disable=SC2016  # the guest's shell counts
echo 'echo console-$((6 * 7))-$(nproc)' >&3
await "console-42-2"
echo 'echo tty-$(tty)-' >&3
await "tty-/dev/$4-"
echo exit >&3
wait $run
status=$?
[ $status -eq 0 ] || {
  cat screen
  echo "check_console.sh: exit code $status of the run"
  exit 1
}
echo "check_console.sh: good"
