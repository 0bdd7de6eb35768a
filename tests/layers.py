"""The order of the folders of mmu/ and vmm/, and what follows from it for their includes and libraries.

tests/style.py checks it. A folder may include the headers of itself and of the folders before it in LAYERS, and its
library may link theirs: so there is no cycle, and each folder can be read without those after it.
"""

import pathlib
import re

LAYERS = (
    "guest",                 # the guest, and what it and its machine agree upon
    "mmu/base",              # types, memory orders, RCU, counters: for every other folder
    "mmu/readers",           # which pages are read just now
    "mmu/stage2",            # the table gfn -> pfn; private to mmu/
    "mmu/caches",            # the index of the pfn caches; private to mmu/
    "mmu",                   # the library's front: memslots, notifier, faults, pfn caches
    "vmm/base",              # descriptors, threads, clocks, constants of newer kernels
    "vmm/hooks",             # the hooked calls, for any program
    "vmm/host",              # the host as a whole, and how it is put back
    "vmm/evidence",          # what the sources report to each other
    "vmm/config",            # what a machine is asked to be
    "vmm/stats",             # what it reports about itself
    "vmm/kvm",               # /dev/kvm and its vCPUs
    "vmm/ram",               # guest RAM on the host
    "vmm/sources/hooks",     # strict
    "vmm/sources/uffd",      # half pairs
    "vmm/sources/kernel",    # late
    "vmm/coherent",          # guest RAM with its Mmu and its three sources, put together
    "vmm/audit",             # translations compared with the kernel's answer; which source saw what
    "vmm/ageing",            # which pages are touched
    "vmm/boot",              # loaders, and what the guest finds at its start
    "vmm/dirty",             # which pages are written
    "vmm/devices/virtio",    # devices with virtqueues
    "vmm/devices",           # the other devices of the test platform
    "vmm/churn",             # what moves memory on purpose
    "vmm/control",           # the socket
    "vmm/machine",           # a machine put together
    "vmm/cli",               # the command
)
# What is not of mmu/ includes of mmu/ these folders only, and of the last one only this header.
PUBLIC_OF_MMU = ("mmu", "mmu/base", "mmu/readers")
PUBLIC_READERS = "mmu/readers/reader.h"

INCLUDE = re.compile(r'#\s*include\s*"((?:mmu|vmm|guest|tests)/[^"]+)"')
LIBRARY = re.compile(r"\bunderfoot_([a-z0-9_]+)")
# Libraries whose names are not their folders'.
FOLDER_OF = {"hooks_core": "vmm/hooks", "hooks_interpose": "vmm/hooks", "hooks": "vmm/hooks", "mmu": "mmu"}
FOLDER_OF.update({folder.removeprefix("vmm/").replace("/", "_"): folder
                  for folder in LAYERS if folder.startswith("vmm/") and folder != "vmm/hooks"})


def folder_of(name):
    return str(pathlib.PurePosixPath(name).parent)


def complaint(folder, header):
    """Why a file of `folder` must not include `header`, or None."""
    to = folder_of(header)
    if to not in LAYERS:
        return f"includes {header}, whose folder is not in LAYERS of tests/layers.py"
    if LAYERS.index(to) > LAYERS.index(folder):
        return f"includes {header}: {to} is a higher folder than {folder}, see tests/layers.py"
    private = to.startswith("mmu") and (to not in PUBLIC_OF_MMU or
                                        to == folder_of(PUBLIC_READERS) and header != PUBLIC_READERS)
    if private and not folder.startswith("mmu"):
        return f"includes {header}, which is private to mmu/"
    return None


def breaches_of(name, lines):
    """(line, complaint) of one file of mmu/, vmm/ or guest/."""
    folder = folder_of(name)
    if name.endswith("CMakeLists.txt"):
        for number, line in enumerate(lines, start=1):
            for library in LIBRARY.findall(line.partition("#")[0]):
                to = FOLDER_OF.get(library)
                if folder in LAYERS and to in LAYERS and LAYERS.index(to) > LAYERS.index(folder):
                    yield number, f"links underfoot_{library}: {to} is a higher folder than {folder}"
        return
    if not name.endswith((".cc", ".h", ".S")):
        return
    if folder not in LAYERS:
        yield 1, f"{folder} is not in LAYERS of tests/layers.py"
        return
    for number, line in enumerate(lines, start=1):
        match = INCLUDE.match(line)
        why = complaint(folder, match[1]) if match else None
        if why:
            yield number, why
    if name.endswith(".h") and not name.endswith("/underfoot_hooks.h"):
        guard = "UNDERFOOT_" + re.sub(r"\W", "_", name).upper() + "_"
        if f"#ifndef {guard}" not in lines:
            yield 1, f"its include guard is not {guard}"
