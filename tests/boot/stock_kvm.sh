#!/usr/bin/env bash
# Runs a command on a stock KVM: Debian's own kernel with its unmodified kvm-amd module, in QEMU's
# software CPU, which has SVM with nested paging. No KVM of this machine is used, so the same answer
# comes on every machine.
#
#   stock_kvm.sh [--kernel 6.1|6.12] [--smp N] [--nodes N] [--memory MB] [--timeout S]
#                [--file PATH]... [--env NAME=VALUE]... -- BINARY ARGS...
#
#   --kernel V     Debian 12's own, or its backport's (6.1)
#   --smp N        CPUs for the command (2)          --timeout S   seconds at most (300)
#                  the machine has one more, CPU 0, which no guest shall run on (run_machine says why)
#   --nodes N      NUMA nodes, which share those CPUs and the memory (1); CPU 0 is in node 0
#   --memory MB    its memory (1024)                 --env N=V     in the command's environment
#   --file PATH    a file that the command needs, at the same path there
#
# The command runs there as root, with /dev, /proc, /sys, tracefs, debugfs and /tmp mounted, its shared
# libraries beside it and UNDERFOOT_REQUIRE_KVM=1. Its output comes out here, and its exit status is
# this script's. 124: it took too long; 125: the machine broke down; 126: it could not be made.
#
# The kernel and QEMU are downloaded once and unpacked into ${XDG_CACHE_HOME:-~/.cache}/underfoot;
# nothing is installed. UNDERFOOT_STOCK_KERNEL=DIR takes a kernel from DIR (vmlinuz and the modules
# named in debian.sh) instead, UNDERFOOT_STOCK_QEMU=DIR a QEMU (usr/bin/qemu-system-x86_64 and usr/share).
# shellcheck disable=SC2317  # make_once calls the function that it is given
set -euo pipefail

readonly broke_down=125 no_machine=126
readonly patience=90       # seconds without a word of a CPU, which has one each 5 seconds
readonly at_the_end=30     # the same when the time of the command is over
readonly until_it_is_up=180  # seconds, at most, until each CPU has said its first word
machine=  # the process of QEMU, while it runs

fail() {
  echo "stock_kvm.sh: $*" >&2
  exit $no_machine
}

break_down() {
  echo "stock_kvm.sh: the machine broke down: $*" >&2
  exit $broke_down
}

# shellcheck source=tests/boot/debian.sh
. "$(dirname "$0")/debian.sh"

version=6.1
smp=2
nodes=1
memory=1024
timeout=300
files=()
environment=(UNDERFOOT_REQUIRE_KVM=1)

usage() {
  sed -n '2,/^# shellcheck /{/^# shellcheck /d;s/^# \{0,1\}//;p}' "$0"
}

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --help | -h) usage; exit 0 ;;
      --) shift; command_line=("$@"); return ;;
      --kernel | --smp | --nodes | --memory | --timeout | --file | --env)
        [ $# -ge 2 ] || fail "$1 needs a value; see --help"
        case $1 in
          --kernel) version=$2 ;;
          --smp) smp=$2 ;;
          --nodes) nodes=$2 ;;
          --memory) memory=$2 ;;
          --timeout) timeout=$2 ;;
          --file) files+=("$2") ;;
          --env) environment+=("$2") ;;
        esac
        shift 2 ;;
      *) fail "unknown argument '$1' (the command comes after --); see --help" ;;
    esac
  done
}

check() {
  local name
  [[ $version == 6.1 || $version == 6.12 ]] || fail "--kernel $version: must be 6.1 or 6.12"
  for name in smp nodes memory timeout; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "--$name ${!name}: must be a positive number"
  done
  # Each node needs a CPU on which the command may run.
  [ "$nodes" -le "$smp" ] || fail "--nodes $nodes: must be at most --smp, which is $smp"
  [ ${#command_line[@]} -gt 0 ] || fail "no command after --; see --help"
  local tool
  for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio ldd:libc-bin \
              timeout:coreutils flock:util-linux; do
    command -v "${tool%:*}" >/dev/null || fail "no ${tool%:*}: apt-get install ${tool#*:}"
  done
  ! ldd "$(command -v busybox)" >/dev/null 2>&1 ||
    fail "busybox is not static: apt-get install busybox-static"
}

# Copies a file to its own absolute path below $root.
add_file() {
  local from=$1 to=$root$2
  if [ -e "$to" ]; then return; fi
  mkdir -p "$(dirname "$to")"
  cp -L "$from" "$to"
}

# Whether Linux runs it as a program, or a program loads it: an ELF file for a loader, or a static one
# that may be executed. A kernel is neither: a bzImage begins like a program of Windows, and a vmlinux
# is an ELF file that is there to be read.
is_program() {
  [ "$(head -c 4 "$1" | tr -d '\0')" = $'\x7fELF' ] || return 1
  ldd "$1" >/dev/null 2>&1 || [[ $1 == *.so* ]]
}

# A program or library, with all libraries that the loader would find for it, and the loader; without
# debug information, because the machine unpacks every byte with a software CPU. Any other file as it is.
add_program() {
  local path library
  path=$(realpath -s "$1")
  add_file "$path" "$path"
  is_program "$path" || return 0
  ! command -v strip >/dev/null || strip -g "$root$path" 2>/dev/null || true
  while read -r library; do
    add_file "$library" "$library"
  done < <(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true)
}

quote() {
  local word
  for word in "$@"; do
    printf "'%s' " "${word//\'/\'\\\'\'}"
  done
}

write_init() {
  cat >"$root/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin:/usr/bin:/sbin HOME=/tmp TMPDIR=/tmp TERM=dumb
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox chmod 1777 /tmp
busybox mkdir -p /dev/shm
busybox mount -t tmpfs -o mode=1777 shm /dev/shm
busybox mount -t tmpfs -o mode=755 run /run
busybox mount -t tracefs tracing /sys/kernel/tracing
busybox mount -t debugfs debug /sys/kernel/debug
busybox ln -sf /proc/self/fd /dev/fd
busybox ip link set lo up
for module in $(busybox cat /modules/order); do
  busybox insmod /modules/$module.ko || echo "no $module"
done
busybox stty -F /dev/ttyS1 raw -echo
# watch_machine waits for these words: a CPU whose timer is lost says no more.
for cpu in $(busybox seq 0 $(($(busybox nproc) - 1))); do
  { while busybox sleep 5; do echo "cpu $cpu lives"; done; } >/dev/console &
  busybox taskset -pc $cpu $! >/dev/null
done
if [ "$(busybox nproc)" != "$(busybox cat /cpus)" ]; then
  echo "only $(busybox nproc) CPUs of $(busybox cat /cpus) came up"  # no exit status: the machine broke down
  busybox reboot -f
fi
cd /tmp
# Through a pipe: on a terminal, programs would draw and colour.
{ busybox taskset -c 1-$(($(busybox nproc) - 1)) busybox sh /command </dev/null 2>&1; echo $? >/status; } |
  busybox cat >/dev/ttyS1
echo "underfoot-exit-status: $(busybox cat /status)"
busybox reboot -f
INIT
  chmod +x "$root/init"
  {
    local variable
    for variable in "${environment[@]}"; do
      printf 'export %s\n' "$(quote "$variable")"
    done
    printf 'exec %s\n' "$(quote "${command_line[@]}")"
  } >"$root/command"
}

build_root() {
  mkdir -p "$root"/{bin,dev,etc,modules,proc,run,sys,tmp}
  cp "$(command -v busybox)" "$root/bin/busybox"
  echo 'root:x:0:0:root:/tmp:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  local module
  for module in "${host_modules[@]}"; do
    [ -e "$kernel/$module.ko" ] || continue
    cp "$kernel/$module.ko" "$root/modules/"
    echo "$module" >>"$root/modules/order"
  done
  local program
  program=$(command -v "${command_line[0]}") || fail "no program '${command_line[0]}'"
  # The absolute name, because the working directory is another there.
  command_line[0]=$(realpath -s "$program")
  add_program "${command_line[0]}"
  local file
  for file in "${files[@]}"; do
    [ -e "$file" ] || fail "--file $file: no such file"
    add_program "$file"
  done
  # What --file has brought comes before busybox's applet of that name.
  local applet
  for applet in $(busybox --list); do
    if [ ! -e "$root/bin/$applet" ] && [ ! -e "$root/usr/bin/$applet" ]; then
      ln -s busybox "$root/bin/$applet"
    fi
  done
  echo "$cpus" >"$root/cpus"
  write_init
  (cd "$root" && find . -print0 | cpio --null --quiet -H newc -o) >"$work/initrd"
}

# Waits for the end of QEMU. Ends it after $timeout seconds, or if one of its CPUs has not said for
# $patience seconds that it lives: a thread that waits for a CPU without timer interrupts waits for ever. Near
# the end of the time less silence tells the same.
watch_machine() {
  local begun=$SECONDS silence cpu words
  touch "$work/console"  # QEMU makes it when it has begun
  local -a said=() heard=()
  while kill -0 "$machine" 2>/dev/null; do
    silence=$((SECONDS - begun > timeout ? at_the_end : patience))
    for ((cpu = 0; cpu < cpus; ++cpu)); do
      words=$(grep -ac "cpu $cpu lives" "$work/console" || true)
      if [ "$words" != "${said[cpu]:-0}" ]; then
        said[cpu]=$words
        heard[cpu]=$SECONDS
      elif [ -n "${heard[cpu]:-}" ] && ((SECONDS - heard[cpu] > silence)); then
        show_console
        break_down "its CPU $cpu has said nothing for $silence s"
      fi
    done
    if ((${#heard[@]} < cpus && SECONDS - begun > until_it_is_up)); then
      show_console
      break_down "it was not up after $until_it_is_up s"
    fi
    if ((SECONDS - begun > timeout)); then
      show_console
      echo "stock_kvm.sh: not done after $timeout s" >&2
      exit 124
    fi
    sleep 0.5
  done
}

show_console() { grep -av 'cpu [0-9]* lives' "$work/console" | tail -40 >&2 || true; }

end_machine() {
  trap '' HUP INT TERM
  if [ -n "$machine" ]; then
    kill -9 "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true  # or the shell says that it was killed
  fi
  rm -rf "$work"
}

# The command does not get CPU 0. In QEMU (7.2, 10.0) every thread that executes FXRSTOR or XRSTOR clears a
# bit in the flags of CPU 0 (cpu_clear_ignne), and not atomically: what CPU 0 sets in the same moment is lost.
# If that is the bit that says "nested paging" in a VMRUN, the guest's page tables are looked for at the host's
# physical addresses, and the guest dies by a triple fault; if it is the bit that STGI sets, CPU 0 takes no
# interrupt any more. A CPU that runs no guest sets neither.
# Without cx16: its flags have come out wrong of QEMU now and then, and Linux 6.12's slab relies on
# them. On a busy machine the timer's interrupt may not come in time for the kernel's test of it, and it
# panics: no_timer_check.
run_machine() {
  local status=0 node numa=()
  for ((node = 0; nodes > 1 && node < nodes; ++node)); do
    numa+=(-object "memory-backend-ram,id=m$node,size=$((memory / nodes))M"
           -numa "node,nodeid=$node,memdev=m$node,cpus=$((node == 0 ? 0 : smp * node / nodes + 1))-$((smp * (node + 1) / nodes))")
  done
  "$qemu" "${firmware[@]}" \
    -accel tcg,thread=multi -cpu max,-cx16,-la57 -smp "$cpus" -m "$memory" ${numa[@]+"${numa[@]}"} \
    -nodefaults -display none -no-user-config -no-reboot \
    -serial "file:$work/console" -chardev stdio,id=output,signal=off -serial chardev:output \
    -kernel "$kernel/vmlinuz" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on no_timer_check" \
    </dev/null &
  machine=$!
  watch_machine
  wait "$machine" || status=$?
  machine=
  local answer
  answer=$(tr -d '\r' <"$work/console" | sed -n 's/.*underfoot-exit-status: \([0-9]*\).*/\1/p')
  if [ -z "$answer" ]; then
    show_console
    break_down "QEMU's exit status is $status; its last words are above"
  fi
  if grep -aqE 'BUG:|Oops|WARNING: CPU|no kvm' "$work/console"; then
    echo "stock_kvm.sh: that machine's kernel says:" >&2
    grep -aE 'BUG:|Oops|WARNING: CPU|no kvm' "$work/console" >&2
  fi
  exit "$answer"
}

main() {
  command_line=()
  parse "$@"
  check
  get_kernel "$version"
  get_qemu
  cpus=$((smp + 1))
  work=$(mktemp -d "${TMPDIR:-/tmp}/stock-kvm.XXXXXX")
  trap end_machine EXIT
  root=$work/root
  build_root
  run_machine
}

main "$@"
