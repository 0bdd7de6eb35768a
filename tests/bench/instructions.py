#!/usr/bin/env python3
"""Counts the instructions of an operation under callgrind, and compares them with instructions.tsv.

  instructions.py PROGRAM [OPERATION ...]

PROGRAM is underfoot_instructions. The exit code is 1 if an operation takes more than its bound.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import figures

TABLE = pathlib.Path(__file__).resolve().parent / "instructions.tsv"
OPERATIONS = 1000  # kOperations of instructions.cc
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


def count(program, operation):
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
        return total_of(out.read_text(encoding="utf-8")) / OPERATIONS


def verdict(operation, counted, bound, what):
    """A line, and whether the bound was kept."""
    kept = counted <= bound
    return (f"{operation:<18} {counted:8.1f} instructions, at most {bound}: "
            f"{'kept' if kept else 'EXCEEDED'}; {what}"), kept


def main(arguments):
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    table = bounds()
    kept = True
    try:
        for operation in arguments[1:] or table:
            if operation not in table:
                raise figures.Wrong(f"no operation '{operation}'; there are {', '.join(table)}")
            line, ok = verdict(operation, count(arguments[0], operation), *table[operation])
            print(line, flush=True)
            kept = kept and ok
    except figures.Wrong as wrong:
        print(f"instructions.py: {wrong}", file=sys.stderr)
        return 2
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
