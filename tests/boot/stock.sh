# For `dev`: what runs on another kernel than the host's. That is Debian's stock KVM under QEMU's software CPU
# (stock_kvm.sh), and Debian as a guest of ours. tests/linux/check_linux.sh has `./dev check-linux`.
# shellcheck shell=bash
# shellcheck disable=SC2154  # dev has the lists of packages

# with_kvm MINUTES COMMAND...: runs it on this machine's KVM. On a machine that has none, on a stock one
# under QEMU's software CPU, for MINUTES at most.
with_kvm() {
  local minutes=$1
  shift
  if [[ -e /dev/kvm ]]; then
    "$@"
    return
  fi
  need_packages "${PACKAGES_STOCK[@]}"
  say "this machine has no /dev/kvm: in a Debian kernel with a stock KVM, under QEMU's software CPU." \
    "No other terminal reaches it"
  local word path files=() words=()
  for word in "$@"; do
    path=${word%,ro}
    if [[ -f $path ]]; then
      files+=(--file "$(realpath -s "$path")")
      word=$(realpath -s "$path")${word#"$path"}
    fi
    words+=("$word")
  done
  stock_kvm --kernel 6.12 --memory 2048 --timeout $((60 * minutes)) "${files[@]}" -- "${words[@]}"
}

# unless_broken COMMAND...: runs it, and up to twice more if the machine of stock_kvm.sh itself broke down (125), then
# $UNJUDGED: a software CPU that makes its kernel panic says nothing of what ran there.
unless_broken() {
  local attempt status
  for attempt in 1 2 3; do
    ((attempt == 1)) || say "the machine broke down; once more"
    status=0
    "$@" || status=$?
    ((status == 125)) || return "$status"
    note "the machine broke down"
  done
  return "$UNJUDGED"
}

# stock_kvm ARGUMENT...: stock_kvm.sh with ARGUMENTs, by unless_broken.
stock_kvm() { unless_broken tests/boot/stock_kvm.sh "$@"; }

# stock MINUTES COMMAND...: runs it on Debian's 6.12 kernel with what the tests of the program call.
stock() {
  local minutes=$1
  shift
  stock_kvm --kernel 6.12 --memory 2048 --timeout $((60 * minutes)) \
    --file build/underfoot --file /bin/sh --file /usr/bin/curl --file /usr/bin/unshare \
    --file /usr/bin/setpriv -- "$@"
}

command_check_stock() {
  local all=false
  [[ -e /dev/kvm ]] || all=true
  if [[ ${1:-} == --all ]]; then
    all=true
    shift
  fi
  (($# == 0)) || refuse "check-stock: unknown argument '$1'; there is only --all"
  need_packages "${PACKAGES_BUILD[@]}" "${PACKAGES_STOCK[@]}"
  configure_and_build dev
  # No guest may run on CPU 0 of that machine (stock_kvm.sh says why).
  step no-cpu-0 stock_kvm --timeout 60 -- /bin/busybox grep '^Cpus_allowed_list:.1-2$' /proc/self/status
  step guest-boot-test stock_kvm --timeout 400 -- build/guest_boot_test
  # Among them what only shmem_enabled=always shows, which is not for a host that others use.
  step huge-pages stock_kvm --timeout 200 --env UNDERFOOT_ALLOW_HOST_CHANGES=1 -- build/huge_pages_test
  if [[ $all == true ]]; then
    # The ends by a signal, and the larger machines, take a minute and more on a software CPU.
    step system-boot-test stock 10 build/system_boot_test --gtest_filter='PrivilegesTest.*:RefusalTest.*:MissingDeviceTest.*:RunningTest.AClient*:RunningTest.AKilled*:RunningTest.ARe*:RunningTest.Who*'
    step machine-boot-test stock 10 build/machine_boot_test \
      --gtest_filter='*EachKindOfChurn*:*EveryMachine*smp*'
    step kernel-source stock 5 build/memory_test \
      --gtest_filter='KvmTracepointsTest.*:*KernelSourceTest.*:*RemovalEvidenceTest.*'
  fi
  local backing
  for backing in anon memfd; do
    step "run-$backing" stock_kvm --timeout 240 -- \
      build/underfoot run --backing "$backing" --vcpus 2 --memory 64M --churn mixed:500/s --duration 5s
  done
  summarize check-stock
}

# stock_measure JSON OPTION... -- ARGUMENT...: underfoot_bench with ARGUMENTs on that machine, whose OPTIONs are
# those of stock_kvm.sh. The results come out after the text. The load in them is this machine's, and they do not
# say what others took: that machine knows its own only, and shares this one's CPUs. Counts do not differ between processes, so one takes all rounds.
stock_measure() {
  local json=$1 log load status=0 options=()
  shift
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  log=$(mktemp)
  load=$(cut -d ' ' -f 1 /proc/loadavg)
  # shellcheck disable=SC2016  # the shell of that machine expands them
  stock_kvm "${options[@]}" --file "$PWD/build/underfoot_bench" -- \
    /bin/busybox sh -c '"$0" --json=/tmp/bench.json "$@" || exit; echo "results:"; cat /tmp/bench.json' \
    "$PWD/build/underfoot_bench" --processes=1 "$@" | tee "$log" | sed -u '/^results:$/,$d' || status=$?
  if ((status == 0)); then
    # Those of the last attempt.
    awk '/^results:$/ { text = ""; on = 1; next } on { text = text $0 "\n" } END { printf "%s", text }' "$log" |
      sed -E -e "s/(\"load\": )[0-9.e+-]+/\1$load/" -e '/^  "others": /d' >"$json"
  fi
  rm -f "$log"
  ((status == 0)) || fail "bench: that machine has no figures; the output above says why"
}

# stock_bench VERSION JSON ARGUMENT...: with two NUMA nodes; the command has one CPU in each.
stock_bench() {
  local version=$1 json=$2
  shift 2
  stock_measure "$json" --kernel "$version" --nodes 2 --memory 1024 --timeout 900 -- "$@"
}

# bench_linux JSON ARGUMENT...: boots of Linux by ours and by QEMU, in turns (tests/bench/peers.cc), on the
# stock KVM of 6.12, which has UFFDIO_MOVE for --huge-pages thp.
bench_linux() {
  local json=$1 peers=build/peers-linux folder=build/peers-linux/linux file files=()
  shift
  # shellcheck source=tests/boot/debian.sh
  . tests/boot/debian.sh
  get_kernel 6.1
  get_qemu
  mkdir -p "$folder/firmware"
  local share
  share=$(realpath "${qemu%/bin/*}/share")
  ln -sf "$(realpath "$kernel/vmlinuz")" "$(realpath "$qemu")" "$folder"
  ln -sf "$share"/qemu/{kvmvapic.bin,linuxboot_dma.bin} "$share/seabios/bios-microvm.bin" "$folder/firmware"
  tests/linux/initrd.sh "$kernel" tests/linux/first_line_init.sh "$folder/initrd"
  for file in build/underfoot "$folder"/{vmlinuz,initrd,qemu-system-x86_64} "$folder"/firmware/*; do
    files+=(--file "$file")
  done
  stock_measure "$json" --kernel 6.12 --memory 2048 --timeout 1200 "${files[@]}" -- \
    --filter=peers.linux "--peers=$PWD/$peers" --rounds=7 "$@"
  grep -q '"name": "peers.linux_first_line"' "$json" ||
    fail "bench: a boot of Linux has failed there; the output above says why"
}

command_linux() {
  local version=6.1
  if [[ ${1:-} == --kernel-version ]]; then
    [[ ${2:-} == 6.1 || ${2:-} == 6.12 ]] || refuse "linux: --kernel-version must be 6.1 or 6.12, not '${2:-}'"
    version=$2
    shift 2
  fi
  options_of_run linux "$@"
  need_packages "${PACKAGES_BUILD[@]}" "${PACKAGES_LINUX[@]}"
  configure_and_build dev underfoot
  # Before the download, because no download helps a host that cannot run Linux.
  local why_not
  why_not=$({ build/underfoot doctor || true; } | sed -n 's/^\(missing *kvm\|less *linux-guests\)  *//p' | head -1)
  [[ -z $why_not ]] || fail "linux: $why_not; build/underfoot doctor has the remedies"
  # shellcheck source=tests/boot/debian.sh
  . tests/boot/debian.sh
  get_kernel "$version"
  local initrd status=0
  initrd=$(mktemp)
  # shellcheck disable=SC2064  # expanded now: at the exit the variable has gone
  trap "rm -f '$initrd'" EXIT
  tests/linux/initrd.sh "$kernel" tests/linux/shell_init.sh "$initrd"
  say "build/underfoot run --kernel $kernel/vmlinuz --initrd $initrd --console $*"
  build/underfoot run --kernel "$kernel/vmlinuz" --initrd "$initrd" --append quiet --console "$@" || status=$?
  return "$status"
}

command_matrix_stock() {
  need_packages "${PACKAGES_BUILD[@]}" "${PACKAGES_STOCK[@]}"
  configure_and_build dev underfoot
  local version backing
  for version in 6.1 6.12; do
    for backing in anon memfd; do
      step "$version-$backing" tests/boot/stock_kvm.sh --kernel "$version" --nodes 2 --memory 1536 \
        --timeout 400 -- build/underfoot run --backing "$backing" --vcpus 2 --memory 64M \
        --churn mixed:500/s --allow-host-changes --duration 30s
    done
  done
  summarize matrix-stock
}
