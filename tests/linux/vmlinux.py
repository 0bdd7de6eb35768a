#!/usr/bin/env python3
"""vmlinux.py BZIMAGE OUT: unpacks the vmlinux that is inside of a bzImage compressed by LZ4 or XZ, as Debian's are.

`./dev check-linux` starts it by PVH.
"""

import lzma
import struct
import sys

LZ4_LEGACY = b"\x02\x21\x4c\x18"
XZ = b"\xfd7zXZ\x00"


def payload_of(image):
    """The compressed kernel, by the setup header (payload_offset and payload_length, protocol 2.08)."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return image[start:start + length]


def length_of(block, at, nibble):
    """A length of LZ4: a nibble, and more bytes as long as they are 255. Returns it and where it ends."""
    length = nibble
    if nibble == 15:
        while True:
            byte = block[at]
            at += 1
            length += byte
            if byte != 255:
                break
    return length, at


def unpack_block(block, out):
    at = 0
    while True:
        token = block[at]
        literals, at = length_of(block, at + 1, token >> 4)
        out += block[at:at + literals]
        at += literals
        if at >= len(block):
            return
        distance = block[at] | block[at + 1] << 8
        match, at = length_of(block, at + 2, token & 15)
        match += 4
        start = len(out) - distance
        if distance >= match:
            out += out[start:start + match]
        else:  # the copy overlaps itself: it repeats what it has written
            pattern = bytes(out[start:])
            out += (pattern * (match // distance + 1))[:match]


def unpack_lz4(data):
    """The legacy frame: blocks, each behind its length. The file's length follows the last one."""
    out = bytearray()
    at = len(LZ4_LEGACY)
    while at + 4 <= len(data):
        length, = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            break
        unpack_block(data[at:at + length], out)
        at += length
    return bytes(out)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        payload = payload_of(file.read())
    if payload.startswith(LZ4_LEGACY):
        vmlinux = unpack_lz4(payload)
    elif payload.startswith(XZ):
        vmlinux = lzma.LZMADecompressor().decompress(payload)
    else:
        sys.exit(f"vmlinux.py: {sys.argv[1]}: compressed by neither LZ4 nor XZ (begins with {payload[:6].hex()})")
    if not vmlinux.startswith(b"\x7fELF"):
        sys.exit(f"vmlinux.py: {sys.argv[1]}: what is inside is no ELF file")
    with open(sys.argv[2], "wb") as file:
        file.write(vmlinux)


if __name__ == "__main__":
    main()
