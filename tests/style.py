#!/usr/bin/env python3
"""Checks the rules of CONTRIBUTING.md that neither a compiler nor clang-format knows.

Prints each breach as file:line: rule, and exits 1 if there is one.
"""

import pathlib
import re
import subprocess
import sys

import layers

ROOT = pathlib.Path(__file__).resolve().parent.parent
MANY_LINES = 600
SOURCES = (".cc", ".h", ".S", ".py", ".pml", ".cmake", ".sh")
COMMENT = re.compile(r"//.*|/\*.*?\*/")
INCLUDE = re.compile(r"\s*#\s*include\b")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

# What must not stand in the code of a folder (comments and strings aside), where it may, and why.
FORBIDDEN = (
    (re.compile(r"\bmemory_order(?:_|::)seq_cst\b"), ("mmu/", "vmm/"), ("mmu/base/ordering.h",),
     "the orders have names in mmu/base/ordering.h"),
    (re.compile(r"\bUNDERFOOT_MUTANT|#\s*include.*\bmutant"), ("mmu/", "vmm/", "guest/"), (),
     "the product contains no mutants, see tests/mutants/generate.py"),
    (re.compile(r"\bvolatile\b"), ("mmu/", "vmm/"), (), "volatile orders nothing; use an atomic"),
    (re.compile(r"#\s*include\s*<(?:urcu|urcu/[^>]*|urcu-[^>]*)>"), ("mmu/", "vmm/", "tests/"),
     ("mmu/base/rcu.h", "mmu/base/rcu.cc", "tests/bench/comparators/qsbr_word.h"),
     "only mmu/base/rcu uses liburcu"),
    (re.compile(r"#\s*include\s*<linux/kvm\.h>"), ("mmu/",), (), "mmu/ knows no KVM"),
    (re.compile(r"\bioctl\s*\("), ("mmu/",), (), "mmu/ makes no ioctl"),
    (re.compile(r"\babsl::Now\b|\bAwaitWith|\bWaitWithTimeout\b|\bsystem_clock\b"), ("mmu/", "vmm/"),
     ("vmm/control/event_stream.cc",),  # tells a client what the wall clock said
     "elapsed time is of the monotonic clock, see vmm/base/monotonic.h"),
    (re.compile(r"\b(?:sleep_for|sleep_until|usleep|nanosleep)\b|\bsleep\s*\("), ("tests/",),
     ("tests/support/wait_until.cc",), "a test waits for an event, see tests/support/wait_until.h"),
)
# Anywhere, comments included. Written apart, so that this file does not hold it.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


# What comments and documents cite must exist: an invariant or a rule of the contract, as in "(I8)", a
# protocol, and a file of the tests.
CONTRACT = "mmu/CONTRACT.md"
DEFINITION = re.compile(r"\*\*([IR]\d+)\*\*")
# The protocols are defined by the headings of mmu/LOCKING.md, their steps by its drawings.
PROTOCOLS = "mmu/LOCKING.md"
HEADING = re.compile(r"^#+ .*\((P\d)\)$", re.MULTILINE)
CITATION = re.compile(r"\b(?:[IR]\d{1,2}|P\d)\b")
TEST_FILE = re.compile(r"\btests/[\w/]+\.(?:cc|h|py|tsv|sh|pml|md)\b(?:\.diff)?")
CITING = (".cc", ".h", ".md", ".tsv")
# The models name the steps of their protocols with the same letters.
NOT_CITING = ("tests/model/",)


# A page that leads through the code names functions as `Class::Function`, which must be defined or declared.
WALKS = "docs/walks.md"
FUNCTION = re.compile(r"\b([A-Z]\w+)::(~?[A-Z]\w+)\b")


# Where the sources stand that are compiled.
BUILD_FILES = ("CMakeLists.txt", ".cmake", "models.tsv")


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def breaches_of(name, lines):
    for number, line in enumerate(lines, start=1):
        if UNFINISHED.search(line):
            yield number, "unfinished work belongs in an issue"
        if not name.endswith((".cc", ".h")):
            continue
        code = COMMENT.sub("", line if INCLUDE.match(line) else STRING.sub('""', line))
        for pattern, folders, exceptions, why in FORBIDDEN:
            if name.startswith(folders) and name not in exceptions and pattern.search(code):
                # Compiler barriers and instructions are spelled so.
                if "__asm__" not in code:
                    yield number, why


def wrong_citations_of(name, lines, defined):
    for number, line in enumerate(lines, start=1):
        text = line if not name.endswith((".cc", ".h")) else "".join(COMMENT.findall(line))
        for label in CITATION.findall(text):
            if label not in defined:
                yield number, f"cites {label}, which neither {CONTRACT} nor {PROTOCOLS} defines"
        for test in TEST_FILE.findall(text):
            if not (ROOT / test).is_file():
                yield number, f"names {test}, which does not exist"


def missing_functions_of(name, lines, names):
    headers = [path for path in names if path.startswith(("mmu/", "vmm/")) and path.endswith(".h")]
    code = [(ROOT / path).read_text("utf-8") for path in headers]
    for number, line in enumerate(lines, start=1):
        for class_name, function in FUNCTION.findall(line):
            in_class = re.compile(rf"\b(?:class|struct) {class_name}\b[^;]*{{")
            call = re.compile(rf"\b{function}\(")
            if not any(in_class.search(text) and call.search(text) for text in code):
                yield number, f"names {class_name}::{function}, which no header of that class declares"


def unbuilt(names):
    """The sources that no build file names: they compile nowhere, and a test among them never runs."""
    named = "\n".join((ROOT / name).read_text("utf-8") for name in names if name.endswith(BUILD_FILES))
    for name in names:
        if name.endswith(".cc") and not re.search(r"(?<![\w.])" + re.escape(built_as(name)) + r"\b", named):
            yield name


def built_as(name):
    """How a build file names a source. The rows of models.tsv name a model without its ending."""
    path = pathlib.PurePath(name)
    return path.stem if name.startswith("tests/model/") else path.name


def main():
    found = 0
    for name in unbuilt(tracked_files()):
        print(f"{name}:1: no build file names it, so it is never compiled")
        found += 1
    defined = set(DEFINITION.findall((ROOT / CONTRACT).read_text("utf-8")))
    defined |= set(HEADING.findall((ROOT / PROTOCOLS).read_text("utf-8")))
    for name in tracked_files():
        path = pathlib.Path(name)
        lines = []
        if path.suffix in SOURCES + CITING or name == "dev":
            lines = (ROOT / name).read_text("utf-8").splitlines()
        if len(lines) > MANY_LINES and path.suffix != ".md":
            print(f"{name}: warning: {len(lines)} lines: is there a second mechanism in it?")
        breaches = []
        if path.suffix in SOURCES or name == "dev":
            breaches += breaches_of(name, lines)
        if name == WALKS:
            breaches += missing_functions_of(name, lines, tracked_files())
        if path.suffix in CITING and not name.startswith(NOT_CITING):
            breaches += wrong_citations_of(name, lines, defined)
        if name.startswith(("mmu/", "vmm/", "guest/")):
            breaches += layers.breaches_of(name, (ROOT / name).read_text("utf-8").splitlines())
        for number, why in breaches:
            print(f"{name}:{number}: {why}")
            found += 1
    print(f"style: {found} breaches")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
