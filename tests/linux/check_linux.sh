# For `dev`: `./dev check-linux`, Debian's kernel as a guest of ours, on the stock KVM of stock_kvm.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154  # dev has the lists of packages

readonly LINUX_SECONDS=590          # for all steps; 10 minutes with what comes around them
readonly LINUX_ATTEMPT_SECONDS=190  # of one run, at most; on 2 CPUs with nothing else to do the longest takes 55
readonly LINUX_ENOUGH_SECONDS=120   # a run that is not done in this time has failed
readonly LINUX_LEAST_SECONDS=20     # with less time than this nothing begins

# linux_attempt ARGUMENT...: stock_kvm.sh with ARGUMENTs, in the time that is left.
linux_attempt() {
  local limit=$((linux_begun + LINUX_SECONDS - SECONDS)) status=0
  ((limit <= LINUX_ATTEMPT_SECONDS)) || limit=$LINUX_ATTEMPT_SECONDS
  if ((limit < LINUX_LEAST_SECONDS)); then
    note "the time of this command was over"
    return "$NOT_RUN"
  fi
  tests/boot/stock_kvm.sh --kernel 6.1 --timeout "$limit" "$@" || status=$?
  if ((status == 124 && limit < LINUX_ENOUGH_SECONDS)); then
    note "not done in $limit s, and there was no more time"
    return "$NOT_RUN"
  fi
  return "$status"
}

# linux_lane NAME KERNEL VCPUS ROUNDS END EXPECTED OPTION...: one guest, see tests/linux/check_host.sh.
# $stock_options has more options of that machine.
linux_lane() {
  local name=$1 image=$2 file files=()
  shift 2
  for file in build/underfoot "$image" "$folder/initrd" tests/linux/check_host.sh \
    /sbin/mke2fs /sbin/e2fsck /sbin/debugfs; do
    files+=(--file "$file")
  done
  step "$name" unless_broken linux_attempt --memory 1536 "${stock_options[@]}" "${files[@]}" -- \
    /bin/busybox sh "$PWD/tests/linux/check_host.sh" "$PWD/build/underfoot" "$image" "$folder/initrd" "$@"
}

command_check_linux() {
  need_packages "${PACKAGES_BUILD[@]}" "${PACKAGES_STOCK[@]}"
  configure_and_build dev underfoot
  # shellcheck source=tests/boot/debian.sh
  . tests/boot/debian.sh
  get_qemu
  get_kernel 6.12
  get_kernel 6.1  # last: it leaves $kernel
  local linux_begun=$SECONDS folder
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # expanded now: at the exit the variable has gone
  trap "rm -rf '$folder'" EXIT
  tests/linux/initrd.sh "$kernel" tests/linux/check_init.sh "$folder/initrd"
  tests/linux/vmlinux.py "$kernel/vmlinuz" "$folder/vmlinux"
  # shellcheck disable=SC2034  # dev reads it
  MAY_BE_UNJUDGED=yes  # the software CPU may leave a step so, also where this machine has a KVM
  local memory=(--memory 192M --allow-host-changes) stock_options=()
  linux_lane linux-anon "$kernel/vmlinuz" 2 1 poweroff 0 "${memory[@]}" --backing anon \
    --churn pageout:5/s,fork:1/s,collapse:1/s,wp:5/s,memslot:1/s,remap:1/s,protect:1/s
  linux_lane linux-memfd "$kernel/vmlinuz" 1 1 reboot 4 "${memory[@]}" --backing memfd \
    --churn pageout:5/s,zap:5/s,wp:5/s,cold:1/s,memslot:1/s,remap:1/s,protect:1/s,adversary:1/s
  local not_judged=$((STEPS_UNJUDGED + STEPS_NOT_RUN))
  # Pages migrate between two nodes.
  stock_options=(--nodes 2 --smp 4)
  linux_lane linux-4-vcpus "$kernel/vmlinuz" 4 1 poweroff 0 "${memory[@]}" --backing anon \
    --churn migrate:2/s,compact:1/s,split:1/s
  # A KVM whose host has UFFDIO_MOVE, for which memory is made of transparent huge pages by default.
  stock_options=(--kernel 6.12 --env "CHECK_TEXT=in huge pages (thp)")
  linux_lane linux-thp "$kernel/vmlinuz" 2 1 poweroff 0 "${memory[@]}" \
    --churn pageout:5/s,move:5/s,fork:1/s,collapse:1/s,wp:5/s,memslot:1/s,remap:1/s,protect:1/s
  stock_options=()
  tests/linux/initrd.sh "$kernel" tests/linux/memory_init.sh "$folder/memory"
  step linux-memory unless_broken linux_attempt --memory 1536 --file build/underfoot \
    --file "$kernel/vmlinuz" --file "$folder/memory" --file tests/linux/check_memory.sh -- \
    /bin/busybox sh "$PWD/tests/linux/check_memory.sh" "$PWD/build/underfoot" "$kernel/vmlinuz" \
    "$folder/memory" --allow-host-changes --churn pageout:5/s,wp:5/s,memslot:1/s,remap:1/s
  linux_lane linux-panic "$folder/vmlinux" 1 1 panic 1 "${memory[@]}"
  tests/linux/initrd.sh "$kernel" tests/linux/shell_init.sh "$folder/shell"
  local tty
  for tty in ttyS0 hvc0; do
    step "console-$tty" unless_broken linux_attempt --memory 1024 --file build/underfoot \
      --file "$kernel/vmlinuz" --file "$folder/shell" --file tests/linux/check_console.sh \
      --file "$(command -v script)" -- \
      /bin/busybox sh "$PWD/tests/linux/check_console.sh" "$PWD/build/underfoot" "$kernel/vmlinuz" \
      "$folder/shell" "$tty"
  done
  summarize check-linux
  ((not_judged == 0)) ||
    fail "check-linux: linux-anon and linux-memfd must be judged; the summary says what kept them from it"
}
