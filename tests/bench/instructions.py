#!/usr/bin/env python3
"""Counts the instructions of an operation under callgrind, and compares them with instructions.tsv.

  instructions.py PROGRAM [--profile] [OPERATION ...]

PROGRAM is underfoot_instructions. The exit code is 1 if an operation takes more than its bound. --profile
says too in which files the instructions are, inlined ones included.
"""

import collections
import pathlib
import re
import subprocess
import sys
import tempfile

import figures

TABLE = pathlib.Path(__file__).resolve().parent / "instructions.tsv"
OPERATIONS = 1024  # kOperations of instructions.cc
PLACES = 8  # of a profile
FUNCTION = "underfoot::bench::Measured*"
TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def bounds(path=TABLE):
    """Operation -> (bound, what)."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            operation, bound, what = line.split("\t")
            found[operation] = int(bound), what
    return found


def total_of(text):
    """The instructions in a file of callgrind."""
    match = TOTAL.search(text)
    if match is None or int(match[1]) == 0:
        raise figures.Wrong(f"callgrind has counted nothing in {FUNCTION}")
    return int(match[1])


FILE = re.compile(r"^(c?)f[lie]=\((\d+)\)(?: (.*))?$")  # c: that of a function that is called
COST = re.compile(r"^(?:\+|-|\*)?\d* ?(\d+)$")


def profile_of(text):
    """File -> instructions of its own lines, in a file of callgrind; the largest first."""
    names = {}
    found = collections.Counter()
    place = None
    of_callee = False
    for line in text.splitlines():
        if match := FILE.match(line):
            callee, number, name = match.groups()
            if name is not None:
                names[number] = "/".join(pathlib.PurePath(name).parts[-2:])
            if not callee:
                place = names[number]
        elif line.startswith("calls="):
            of_callee = True  # the next line has what the call cost
        elif match := COST.match(line):
            if not of_callee:
                found[place] += int(match[1])
            of_callee = False
    return found.most_common()


def count(program, operation):
    """The text that callgrind wrote about it."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", "--quiet", "--collect-atstart=no",
                   f"--toggle-collect={FUNCTION}", f"--callgrind-out-file={out}", program, operation]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except FileNotFoundError as error:
            raise figures.Wrong("valgrind is missing; ./dev instructions installs it") from error
        if done.returncode != 0:
            raise figures.Wrong(f"{operation}: valgrind ended with {done.returncode}: "
                                f"{done.stderr.strip()[-500:]}")
        return out.read_text(encoding="utf-8")


def verdict(operation, counted, bound, what):
    """A line, and whether the bound was kept."""
    kept = counted <= bound
    return (f"{operation:<18} {counted:8.1f} instructions, at most {bound}: "
            f"{'kept' if kept else 'EXCEEDED'}; {what}"), kept


def main(arguments):
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    program, *operations = (word for word in arguments if word != "--profile")
    table = bounds()
    kept = True
    try:
        for operation in operations or table:
            if operation not in table:
                raise figures.Wrong(f"no operation '{operation}'; there are {', '.join(table)}")
            text = count(program, operation)
            line, ok = verdict(operation, total_of(text) / OPERATIONS, *table[operation])
            print(line, flush=True)
            kept = kept and ok
            if "--profile" in arguments:
                for place, instructions in profile_of(text)[:PLACES]:
                    print(f"    {instructions / OPERATIONS:8.1f}  {place}")
    except figures.Wrong as wrong:
        print(f"instructions.py: {wrong}", file=sys.stderr)
        return 2
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
