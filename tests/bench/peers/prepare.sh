#!/usr/bin/env bash
# prepare.sh FOLDER: builds there what the comparisons peers.* measure beside ours, from Debian's packages.
# What is already there is kept. A peer that cannot be built is named with its log, and its comparison is
# skipped.
#
#   first_byte.rom                  a firmware of 16 bytes for QEMU's microvm: one byte to the serial port
#   libvm_memory_peer.so            rust-vmm's vm-memory
#   demand_paging_test, memslot_modification_stress_test
#                                   KVM selftests, of Debian's kernel source
set -euo pipefail
(($# == 1)) || {
  echo "usage: prepare.sh FOLDER" >&2
  exit 2
}
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
mkdir -p "$1"
folder=$(realpath "$1")
source_package=linux-source-6.1

# have NAME COMMAND...: makes FOLDER/NAME by the command, unless it is there.
have() {
  local name=$1 status=0
  shift
  [[ -e $folder/$name ]] && return
  printf 'peers: %s\n' "$name"
  # In a subshell with -e of its own: bash ignores -e inside a command that is tested.
  set +e
  (
    set -e
    "$@"
  ) >"$folder/$name.log" 2>&1
  status=$?
  set -e
  ((status == 0)) || printf 'peers: %s cannot be built; see %s\n' "$name" "$folder/$name.log" >&2
}

# mov dx,0x3f8; mov al,'H'; out dx,al; mov dx,0xf4; xor al,al; out dx,al (ends QEMU); hlt; and at the reset
# vector, 16 bytes before the end, a jump to it.
first_byte_rom() {
  local code='\xba\xf8\x03\xb0H\xee\xba\xf4\x00\x30\xc0\xee\xf4'
  {
    printf '%b' "$code"
    head -c $((0xfff0 - 13)) /dev/zero
    printf '\xe9\x0d\x00'
    head -c 13 /dev/zero
  } >"$folder/rom.new"
  mv "$folder/rom.new" "$folder/first_byte.rom"
}

# Debian's crates stand in a folder, so cargo needs no network.
vm_memory() {
  mkdir -p "$folder/rust/.cargo"
  cp "$here/Cargo.toml" "$here/vm_memory.rs" "$folder/rust"
  cat >"$folder/rust/.cargo/config.toml" <<'TOML'
[source.crates-io]
replace-with = "debian"
[source.debian]
directory = "/usr/share/cargo/registry"
TOML
  (cd "$folder/rust" && cargo build --release --offline)
  cp "$folder/rust/target/release/libvm_memory_peer.so" "$folder"
}

# selftest NAME. The guest's part of the library gets no SSE: a KVM that emulates ring 0 does not know it.
selftest() {
  local tree=$folder/linux/$source_package
  if [[ ! -d $tree ]]; then
    rm -rf "$folder/linux.new" "$folder/linux"
    mkdir "$folder/linux.new"
    (cd "$folder/linux.new" && apt-get download -q "$source_package")
    dpkg-deb --fsys-tarfile "$folder"/linux.new/*.deb | tar -xO "./usr/src/$source_package.tar.xz" |
      tar -xJ -C "$folder/linux.new" --wildcards "$source_package/tools/testing/selftests/kvm" \
        "$source_package/tools/testing/selftests/rseq" "$source_package/tools/testing/selftests/*.h" \
        "$source_package/tools/testing/selftests/lib.mk" "$source_package/tools/include" \
        "$source_package/tools/arch/x86/include" "$source_package/tools/build" \
        "$source_package/tools/scripts" "$source_package/tools/lib" \
        "$source_package/scripts/subarch.include"
    rm "$folder"/linux.new/*.deb
    mv "$folder/linux.new" "$folder/linux"
  fi
  local out=$folder/linux/out make
  make=(make -C "$tree/tools/testing/selftests/kvm" OUTPUT="$out" ARCH=x86)
  "${make[@]}" EXTRA_CFLAGS=-mgeneral-regs-only "$out/lib/x86_64/ucall.o"
  "${make[@]}" "$out/$1"
  cp "$out/$1" "$folder"
}

have first_byte.rom first_byte_rom
have libvm_memory_peer.so vm_memory
have demand_paging_test selftest demand_paging_test
have memslot_modification_stress_test selftest memslot_modification_stress_test
