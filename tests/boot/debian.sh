# shellcheck shell=bash
# Debian kernels and programs from the machine's own mirror, downloaded once and unpacked into
# ${XDG_CACHE_HOME:-~/.cache}/underfoot; nothing is installed. For scripts that have a function `fail`:
#
#   . tests/boot/debian.sh
#   get_kernel 6.1         # leaves the folder in $kernel: vmlinuz, modules, `package`
#   get_qemu               # leaves QEMU 10 in $qemu, and its arguments for firmware in $firmware
#
# UNDERFOOT_STOCK_KERNEL=DIR takes a kernel from DIR instead, UNDERFOOT_STOCK_QEMU=DIR a QEMU.

cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/underfoot

# In the order in which they are loaded. Those for a host with guests: after kvm-amd they are for swap
# space. Those for a guest: devices behind virtio-mmio. A kernel has the ones that it needs.
readonly host_modules=(irqbypass ccp kvm kvm-amd zsmalloc lzo lzo-rle lz4_compress lz4hc_compress lz4
                       lz4hc zram)
readonly guest_modules=(virtio_ring virtio virtio_mmio virtio_blk rng-core virtio-rng virtio_balloon
                        virtio_mem virtio_console)

# The options by which apt finds backports: lists of their own, in the cache, so that this machine's
# stay as they are. The mirror is the one that this machine's apt takes Debian 12 from.
use_backports() {
  local uri
  # shellcheck disable=SC2016  # apt-get replaces $(REPO_URI)
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' |
    sort -u | head -1)
  [ -n "$uri" ] ||
    fail "apt has no source of Debian 12 (bookworm), whose mirror would have the backports"
  mkdir -p "$cache/lists/partial"
  echo "deb $uri bookworm-backports main" >"$cache/backports.list"
  options=(-o "Dir::Etc::SourceList=$cache/backports.list" -o Dir::Etc::SourceParts=-
           -o "Dir::State::Lists=$cache/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
}

# The newest cloud kernel of that version that apt knows.
kernel_package() {
  apt-cache "${options[@]}" search --names-only \
    "^linux-image-${version/./\\.}\\.[0-9.+a-z-]*-cloud-amd64\$" |
    awk '{print $1}' | sort -V | tail -1
}

# unpack FOLDER NAME PACKAGE...: downloads the packages and unpacks them into FOLDER, installing
# nothing. NAME stands for them in messages.
unpack() {
  local folder=$1 name=$2
  shift 2
  echo "${0##*/}: downloading $name" >&2
  (cd "$folder" && apt-get "${options[@]}" -qq download "$@" 2>apt.log) || {
    cat "$folder/apt.log" >&2
    fail "cannot download $name: is a Debian mirror in reach?"
  }
  local package
  for package in "$folder"/*.deb; do dpkg-deb -x "$package" "$folder/tree"; done
}

# Runs FUNCTION with an empty folder in the cache, then moves what it left in FOLDER/result to NAME.
# Two callers at once make it once.
make_once() {
  local name=$1 function=$2 fresh
  [ ! -e "$cache/$name" ] || return 0
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    fail "this is no Debian: set UNDERFOOT_STOCK_KERNEL and UNDERFOOT_STOCK_QEMU (see --help)"
  fi
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if [ ! -e "$cache/$name" ]; then
    fresh=$(mktemp -d "$cache/unpack.XXXXXX")
    # shellcheck disable=SC2064  # the path now: `fresh` is gone when the trap runs
    trap "rm -rf '$fresh'" EXIT
    "$function" "$fresh"
    mv "$fresh/result" "$cache/$name"
    rm -rf "$fresh"
    trap - EXIT
  fi
  exec 9>&-
}

# get_kernel VERSION: leaves the kernel in $kernel, or fails. 6.1 is Debian 12's own, 6.12 its backport's.
get_kernel() {
  version=$1
  # Another name if the list of modules changes: what is in the cache stays there.
  local kernel_folder=debian-kernel-with-memory
  kernel=${UNDERFOOT_STOCK_KERNEL:-$cache/$kernel_folder-$version}
  if [ -n "${UNDERFOOT_STOCK_KERNEL:-}" ]; then
    [ -e "$kernel/vmlinuz" ] || fail "UNDERFOOT_STOCK_KERNEL=$kernel has no vmlinuz"
  else
    make_once "$kernel_folder-$version" make_kernel
  fi
}

make_kernel() {
  local fresh=$1 package
  options=()
  [ "$version" = 6.1 ] || use_backports
  package=$(kernel_package)
  if [ -z "$package" ]; then
    apt-get "${options[@]}" -qq update >&2 || true
    package=$(kernel_package)
  fi
  [ -n "$package" ] ||
    fail "apt knows no linux-image-$version.*-cloud-amd64: run apt-get update, with Debian 12's lists"
  unpack "$fresh" "$package" "$package"
  mkdir "$fresh/result"
  cp "$fresh"/tree/boot/vmlinuz-* "$fresh/result/vmlinuz"
  local module found
  for module in "${host_modules[@]}" "${guest_modules[@]}"; do
    found=$(find "$fresh/tree" -name "$module.ko*" -print -quit)
    case $found in
      *.ko) cp "$found" "$fresh/result/$module.ko" ;;
      *.ko.xz) xz -dc "$found" >"$fresh/result/$module.ko" ;;
      *.ko.zst) zstd -qdc "$found" >"$fresh/result/$module.ko" ;;
      *) [ "$module" != kvm-amd ] || fail "$package has no module $module" ;;
    esac
  done
  echo "$package" >"$fresh/result/package"
}

# Leaves QEMU in $qemu and its arguments for firmware in $firmware, or fails. Debian 12's own QEMU,
# 7.2, hangs with several threads and computes some flags wrongly: the one of the backports is taken.
# Its libraries are those of the installed package.
get_qemu() {
  local folder=${UNDERFOOT_STOCK_QEMU:-$cache/stock-qemu}
  [ -n "${UNDERFOOT_STOCK_QEMU:-}" ] || make_once stock-qemu make_qemu
  qemu=$folder/usr/bin/qemu-system-x86_64
  [ -x "$qemu" ] || fail "UNDERFOOT_STOCK_QEMU=$folder has no usr/bin/qemu-system-x86_64"
  # shellcheck disable=SC2034  # for the caller
  firmware=(-L "$folder/usr/share/qemu" -L "$folder/usr/share/seabios")
}

make_qemu() {
  local fresh=$1
  use_backports
  apt-get "${options[@]}" -qq update >&2 || true
  unpack "$fresh" "QEMU of bookworm-backports" \
    qemu-system-x86 qemu-system-common qemu-system-data seabios
  mv "$fresh/tree" "$fresh/result"
}
