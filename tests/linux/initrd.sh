#!/usr/bin/env bash
# initrd.sh KERNEL_FOLDER INIT OUT: makes an initial RAM disk for a Linux guest: busybox, the kernel's
# modules for virtio-mmio devices, the beginning that all INITs share, and INIT as /init. KERNEL_FOLDER is what get_kernel of
# tests/boot/debian.sh leaves.
set -euo pipefail

fail() {
  echo "initrd.sh: $*" >&2
  exit 1
}

# shellcheck source=tests/boot/debian.sh
. "$(dirname "$0")/../boot/debian.sh"

[ $# -eq 3 ] || fail "needs KERNEL_FOLDER INIT OUT"
for tool in busybox:busybox-static cpio:cpio; do
  command -v "${tool%:*}" >/dev/null || fail "no ${tool%:*}: apt-get install ${tool#*:}"
done
! ldd "$(command -v busybox)" >/dev/null 2>&1 ||
  fail "busybox is not static: apt-get install busybox-static"

root=$(mktemp -d "${TMPDIR:-/tmp}/initrd.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,etc,mnt,modules,proc,root,sys,tmp}
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $(busybox --list); do
  [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
for module in "${guest_modules[@]}"; do
  [ -e "$1/$module.ko" ] || continue
  cp "$1/$module.ko" "$root/modules/"
  echo "$module" >>"$root/modules/order"
done
cp "$(dirname "$0")/init_head.sh" "$root/head"
install -m 755 "$2" "$root/init"
(cd "$root" && find . -print0 | cpio --null --quiet -H newc -o) >"$3"
