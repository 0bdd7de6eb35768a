#!/usr/bin/env python3
"""Checks the rules of CONTRIBUTING.md that neither a compiler nor clang-format knows.

Prints each breach as file:line: rule, and exits 1 if there is one.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_LINES = 400
SOURCES = (".cc", ".h", ".S", ".py", ".pml", ".cmake", ".sh")
COMMENT = re.compile(r"//.*|/\*.*?\*/")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

# What must not stand in the code of a folder (comments and strings aside), where it may, and why.
FORBIDDEN = (
    (re.compile(r"\bmemory_order(?:_|::)seq_cst\b"), ("mmu/", "vmm/"), ("mmu/ordering.h",),
     "the orders have names in mmu/ordering.h"),
    (re.compile(r"\bvolatile\b"), ("mmu/", "vmm/"), (), "volatile orders nothing; use an atomic"),
    (re.compile(r"#\s*include\s*<(?:urcu|urcu/[^>]*|urcu-[^>]*)>"), ("mmu/", "vmm/", "tests/"),
     ("mmu/rcu.h", "mmu/rcu.cc"), "only mmu/rcu uses liburcu"),
    (re.compile(r"#\s*include\s*<linux/kvm\.h>"), ("mmu/",), (), "mmu/ knows no KVM"),
    (re.compile(r"\bioctl\s*\("), ("mmu/",), (), "mmu/ makes no ioctl"),
    (re.compile(r"\b(?:sleep_for|sleep_until|usleep|nanosleep)\b|\bsleep\s*\("), ("tests/",),
     ("tests/support/wait_until.cc",), "a test waits for an event, see tests/support/wait_until.h"),
)
# Anywhere, comments included. Written apart, so that this file does not hold it.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def breaches_of(name, lines):
    if len(lines) > MAX_LINES:
        yield len(lines), f"{len(lines)} lines, the limit is {MAX_LINES}"
    for number, line in enumerate(lines, start=1):
        if UNFINISHED.search(line):
            yield number, "unfinished work belongs in an issue"
        if not name.endswith((".cc", ".h")):
            continue
        code = COMMENT.sub("", STRING.sub('""', line))
        for pattern, folders, exceptions, why in FORBIDDEN:
            if name.startswith(folders) and name not in exceptions and pattern.search(code):
                # Compiler barriers and instructions are spelled so.
                if "__asm__" not in code:
                    yield number, why


def main():
    found = 0
    for name in tracked_files():
        path = pathlib.Path(name)
        if path.suffix not in SOURCES and name != "dev":
            continue
        for number, why in breaches_of(name, (ROOT / name).read_text("utf-8").splitlines()):
            print(f"{name}:{number}: {why}")
            found += 1
    print(f"style: {found} breaches")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
