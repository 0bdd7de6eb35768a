# For `dev`: `./dev check-linux`, Debian's kernel as a guest of ours, on the stock KVM of stock_kvm.sh.
#
# QEMU's software CPU breaks down now and then: the kernel of that machine panics, or a guest in it ends in a
# triple fault, the more so the busier the host is. So a guest whose kernel dies, or that is not done in time, is
# started again. If it dies in each attempt, a control decides: guests of QEMU, with the same kernel, on the same
# KVM and software CPU. If one of those dies too, the step is UNJUDGED, otherwise it has FAILED. All else that is
# wrong (a checksum, the file system, what the audit finds, an error of the program) fails the step at once.
# shellcheck shell=bash
# shellcheck disable=SC2154  # dev has the lists of packages

readonly LINUX_SECONDS=590          # for all steps with their repetitions; 10 minutes with what comes around them
readonly LINUX_ATTEMPT_SECONDS=190  # of one attempt, at most; on 2 CPUs with nothing else to do the longest takes 55
readonly LINUX_FAST_SECONDS=60      # a machine that has made an attempt in this time is fast
readonly LINUX_CONTROL_SECONDS=130
readonly LINUX_BREAKDOWNS=3         # of the machine in one step, after which it judges nothing
readonly LINUX_DEATHS=5             # of a step's guest, after which the control decides; a busy host kills every second guest
readonly LINUX_LEAST_SECONDS=20     # with less time than this nothing begins

# linux_outcome STATUS OUTPUT: what a run of stock_kvm.sh with this exit status has shown.
#   good, wrong
#   broken  the machine broke down, and says nothing about the program
#   died    the guest's kernel died, or was not done in time, and nothing else is known to be wrong
linux_outcome() {
  local status=$1 output=$2
  case $status in
    0) echo good ;;
    125) echo broken ;;
    *)
      # The reasons of the summary's FAILED stand indented below it.
      tr -d '\r' <"$output" | awk -v hung=$((status == 124)) '
        BEGIN { died = hung }
        /guest: FAILED/ { wrong = 1 }
        # Whatever check_host.sh finds, apart from the end of the run itself.
        /^check_host\.sh: / && !/exit code|has not come to its end/ { wrong = 1 }
        /^FAILED:$/ { reasons = 1; next }
        reasons && /^  / {
          if (/KVM_EXIT_(SHUTDOWN|INTERNAL_ERROR|FAIL_ENTRY)|the guest.s kernel has panicked/) died = 1
          else wrong = 1
          next
        }
        { reasons = 0 }
        END { print died && !wrong ? "died" : "wrong" }'
      ;;
  esac
}

# linux_control: whether QEMU's own guests live on the step's machine (control.sh): good, broken, or wrong if
# it cannot be found out. $control_died remembers one that has died: that software CPU is not well now.
linux_control() {
  if [[ -e $control_died ]]; then
    echo broken
    return
  fi
  local seconds=$LINUX_CONTROL_SECONDS file files=() status=0
  local share=${qemu%/bin/*}/share
  for file in "$qemu" "$share"/qemu/{kvmvapic.bin,linuxboot_dma.bin} "$share/seabios/bios-microvm.bin" \
    "$kernel/vmlinuz" "$folder/control" tests/linux/control.sh; do
    files+=(--file "$file")
  done
  say "a control: guests of QEMU on the same KVM" >&2
  tests/boot/stock_kvm.sh --kernel 6.1 --memory 1536 --timeout "$seconds" "${stock_options[@]}" "${files[@]}" -- \
    /bin/busybox sh "$PWD/tests/linux/control.sh" $((seconds - 70)) "$kernel/vmlinuz" "$folder/control" \
    "$(realpath -s "$qemu")" "${firmware[@]}" >&2 || status=$?
  case $status in
    0) echo good ;;
    3 | 124 | 125)
      touch "$control_died" "$folder/broke-down"
      echo broken
      ;;
    *) echo wrong ;;
  esac
}

# linux_run END ARGUMENT...: stock_kvm.sh with ARGUMENTs, again if the guest's kernel dies or the machine breaks
# down, until END (a value of SECONDS).
linux_run() {
  local end=$1 status outcome limit begun output control_died died=0 broken=0
  shift
  output=$folder/output
  # On a machine with the same options.
  control_died=$folder/control-died-$(tr -c 'a-z0-9.\n' _ <<<"${stock_options[*]}")
  while ((died < LINUX_DEATHS && broken < LINUX_BREAKDOWNS)); do
    limit=$((end - SECONDS))
    if ((died > 0)) && [[ ! -e $control_died ]]; then limit=$((limit - LINUX_CONTROL_SECONDS)); fi
    ((limit >= LINUX_LEAST_SECONDS)) || break
    ((limit <= LINUX_ATTEMPT_SECONDS)) || limit=$LINUX_ATTEMPT_SECONDS
    ((died + broken == 0)) || say "once more"
    status=0
    begun=$SECONDS
    tests/boot/stock_kvm.sh --timeout "$limit" "$@" 2>&1 | tee "$output" || status=$?
    outcome=$(linux_outcome "$status" "$output")
    case $outcome in
      good)
        if ((SECONDS - begun <= LINUX_FAST_SECONDS)); then touch "$folder/fast"; fi
        return 0
        ;;
      wrong) return 1 ;;
      broken)
        broken=$((broken + 1))
        touch "$folder/broke-down"
        note "the machine broke down"
        ;;
      died)
        if ((status != 124)); then
          died=$((died + 1))
          note "the guest's kernel died"
          continue
        fi
        note "not done after $limit s"
        # Of a slow machine, or with less time, this says nothing.
        if [[ -e $folder/fast ]] && ((limit == LINUX_ATTEMPT_SECONDS)); then died=$((died + 1)); fi
        ;;
    esac
  done
  if ((died == 0 && broken == LINUX_BREAKDOWNS)); then return "$UNJUDGED"; fi
  if ((died == 0)) || [[ ! -e $control_died && $((end - SECONDS)) -lt $LINUX_CONTROL_SECONDS ]]; then
    note "the time of this command was over"
    return "$NOT_RUN"
  fi
  case $(linux_control) in
    broken)
      note "a guest of QEMU died there too"
      return "$UNJUDGED"
      ;;
    good) note "guests of QEMU live there" ;;
    wrong) note "no control could be made" ;;
  esac
  return 1
}

# linux_step NAME SECONDS ARGUMENT...: a step that has until SECONDS after the beginning.
linux_step() {
  local name=$1 end=$((linux_begun + $2))
  shift 2
  step "$name" linux_run "$end" --kernel 6.1 "$@"
}

# linux_lane NAME SECONDS KERNEL VCPUS ROUNDS END EXPECTED OPTION...: one guest, see tests/linux/check_host.sh.
# $stock_options has more options of that machine.
linux_lane() {
  local name=$1 seconds=$2 image=$3 file files=()
  shift 3
  for file in build/underfoot "$image" "$folder/initrd" tests/linux/check_host.sh \
    /sbin/mke2fs /sbin/e2fsck /sbin/debugfs; do
    files+=(--file "$file")
  done
  linux_step "$name" "$seconds" --memory 1536 "${stock_options[@]}" "${files[@]}" -- \
    /bin/busybox sh "$PWD/tests/linux/check_host.sh" "$PWD/build/underfoot" "$image" "$folder/initrd" "$@"
}

command_check_linux() {
  need_packages "${PACKAGES_BUILD[@]}" "${PACKAGES_STOCK[@]}"
  configure_and_build dev underfoot
  # shellcheck source=tests/boot/debian.sh
  . tests/boot/debian.sh
  local linux_begun=$SECONDS folder
  get_kernel 6.1
  get_qemu
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # expanded now: at the exit the variable has gone
  trap "rm -rf '$folder'" EXIT
  tests/linux/initrd.sh "$kernel" tests/linux/check_init.sh "$folder/initrd"
  tests/linux/initrd.sh "$kernel" tests/linux/control_init.sh "$folder/control"
  tests/linux/vmlinux.py "$kernel/vmlinuz" "$folder/vmlinux"
  # The first two must be judged. The first leaves the second the time of an attempt.
  # shellcheck disable=SC2034  # dev reads it
  MAY_BE_UNJUDGED=yes  # by the control, not by what else this machine can do
  local memory=(--memory 192M --allow-host-changes) stock_options=()
  linux_lane linux-anon $((LINUX_SECONDS - 270)) "$kernel/vmlinuz" 2 1 poweroff 0 "${memory[@]}" --backing anon \
    --churn pageout:5/s,fork:1/s,collapse:1/s,wp:5/s,memslot:1/s,remap:1/s,protect:1/s
  linux_lane linux-memfd $LINUX_SECONDS "$kernel/vmlinuz" 1 1 reboot 4 "${memory[@]}" --backing memfd \
    --churn pageout:5/s,zap:5/s,wp:5/s,cold:1/s,memslot:1/s,remap:1/s,protect:1/s,adversary:1/s
  local not_judged=$((STEPS_UNJUDGED + STEPS_NOT_RUN)) left_out=$STEPS_NOT_RUN
  # Pages migrate between two nodes.
  stock_options=(--nodes 2 --smp 4)
  linux_lane linux-4-vcpus $LINUX_SECONDS "$kernel/vmlinuz" 4 1 poweroff 0 "${memory[@]}" --backing anon \
    --churn migrate:2/s,compact:1/s,split:1/s
  # A KVM whose host has UFFDIO_MOVE, for which memory is made of transparent huge pages by default.
  stock_options=(--kernel 6.12 --env "CHECK_TEXT=in huge pages (thp)")
  linux_lane linux-thp $LINUX_SECONDS "$kernel/vmlinuz" 2 1 poweroff 0 "${memory[@]}" \
    --churn pageout:5/s,fork:1/s,collapse:1/s,wp:5/s,memslot:1/s,remap:1/s,protect:1/s
  stock_options=()
  tests/linux/initrd.sh "$kernel" tests/linux/memory_init.sh "$folder/memory"
  linux_step linux-memory $LINUX_SECONDS --memory 1536 --file build/underfoot \
    --file "$kernel/vmlinuz" --file "$folder/memory" --file tests/linux/check_memory.sh -- \
    /bin/busybox sh "$PWD/tests/linux/check_memory.sh" "$PWD/build/underfoot" "$kernel/vmlinuz" \
    "$folder/memory" --allow-host-changes --churn pageout:5/s,wp:5/s,memslot:1/s,remap:1/s
  linux_lane linux-panic $LINUX_SECONDS "$folder/vmlinux" 1 1 panic 1 "${memory[@]}"
  tests/linux/initrd.sh "$kernel" tests/linux/shell_init.sh "$folder/shell"
  local tty
  for tty in ttyS0 hvc0; do
    linux_step "console-$tty" $LINUX_SECONDS --memory 1024 --file build/underfoot \
      --file "$kernel/vmlinuz" --file "$folder/shell" --file tests/linux/check_console.sh \
      --file "$(command -v script)" -- \
      /bin/busybox sh "$PWD/tests/linux/check_console.sh" "$PWD/build/underfoot" "$kernel/vmlinuz" \
      "$folder/shell" "$tty"
  done
  if ((not_judged == 0 || STEPS_FAILED > 0)); then
    summarize check-linux
    return
  fi
  show_summary check-linux
  # An attempt or a control may have taken the time.
  ((left_out == 0)) || [[ -e $folder/broke-down ]] ||
    fail "check-linux: linux-anon and linux-memfd must run, and this machine is too slow or too busy for them"
  echo "dev: check-linux: nothing failed, but the software CPU broke down too often to judge linux-anon and linux-memfd" >&2
  exit "$TOO_LITTLE"
}
