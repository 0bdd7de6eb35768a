#!/usr/bin/env python3
"""Runs the models of the lock-free protocols and compares every verdict with models.tsv.

A row that must hold is explored in full, and the number of its states (spin) or schedules (relacy)
is compared too: a model that quietly explores less proves less. A row with a BREAK_ switch must be
caught. Any difference fails the run.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROW_SECONDS = 300
MEMORY_MB = 3000


@dataclasses.dataclass(frozen=True)
class Row:
    line: int
    tool: str
    model: str
    switches: tuple
    verdict: str
    states: str
    when: str


@dataclasses.dataclass
class Result:
    row: Row
    verdict: str
    states: int
    seconds: float
    note: str

    def differs(self):
        if self.verdict != self.row.verdict:
            return True
        return self.row.verdict == "holds" and self.states != int(self.row.states)


def rows_of(path):
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 6:
            sys.exit(f"{path}:{number}: {len(fields)} fields, not 6")
        tool, model, switches, verdict, states, when = (field.strip() for field in fields)
        if tool not in ("safety", "liveness", "relacy") or verdict not in ("holds", "caught"):
            sys.exit(f"{path}:{number}: tool '{tool}' or verdict '{verdict}' is unknown")
        switches = tuple(f"-D{switch}" for switch in switches.split() if switch != "-")
        rows.append(Row(number, tool, model, switches, verdict, states, when))
    return rows


def run(command, directory, limit=ROW_SECONDS):
    done = subprocess.run(command, cwd=directory, timeout=limit, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def must(command, directory):
    code, output = run(command, directory)
    if code != 0:
        raise RuntimeError(f"{command[0]} failed: {output.strip()[-300:]}")
    return output


def spin(row, directory):
    """Verdict, states and a note; `liveness` rows check the model's ltl claim with weak fairness."""
    must(["spin", *row.switches, "-a", str(HERE / f"{row.model}.pml")], directory)
    how = ["-DSAFETY"] if row.tool == "safety" else ["-DNFAIR=8"]
    must(["gcc", "-O2", "-w", *how, "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c"],
         directory)
    search = ["./pan", "-m1000000"] + (["-a", "-f"] if row.tool == "liveness" else [])
    _, output = run(search, directory)
    errors = re.search(r"errors: (\d+)", output)
    stored = re.search(r"(\d+) states, stored", output)
    if not errors or not stored:
        raise RuntimeError(f"pan says: {output.strip()[-300:]}")
    if "max search depth too small" in output or "out of memory" in output:
        raise RuntimeError("the search was cut short")
    what = re.search(r"pan:\d+: (.*?)(?: \(at depth|$)", output)
    verdict = "caught" if errors.group(1) != "0" else "holds"
    return verdict, int(stored.group(1)), what.group(1).strip() if what else ""


def relacy(row, directory):
    """The relacy headers predate C++20 and our warnings: they are system headers here."""
    must(["g++", "-std=c++11", "-O1", "-w", "-I", str(HERE), *row.switches, "-o", "model",
          str(HERE / f"{row.model}.cc")], directory)
    code, output = run(["./model"], directory)
    schedules = re.search(r"iterations?: (\d+)", output)
    if code not in (0, 1) or not schedules:
        raise RuntimeError(f"exit {code}: {output.strip()[-300:]}")
    what = re.search(r"^([A-Z][A-Z ]{4,}.*)$", output, re.MULTILINE)
    verdict = "caught" if code == 1 else "holds"
    return verdict, int(schedules.group(1)), what.group(1).strip() if what else ""


def check(row):
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="underfoot-model-") as directory:
        try:
            judge = relacy if row.tool == "relacy" else spin
            verdict, states, note = judge(row, directory)
        except subprocess.TimeoutExpired:
            verdict, states, note = "timeout", 0, f"no answer in {ROW_SECONDS} s"
        except RuntimeError as error:
            verdict, states, note = "error", 0, str(error)
    return Result(row, verdict, states, time.monotonic() - started, note)


def report(result):
    row = result.row
    print(f"{row.model:16} {' '.join(s[2:] for s in row.switches) or '-':44} {result.verdict:8}"
          f"{result.states:>11} {result.seconds:6.1f} s  {result.note[:70]}")
    if result.differs():
        print(f"  DIFFERS from models.tsv:{row.line}: expected {row.verdict}, {row.states} states")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="only the rows marked quick")
    parser.add_argument("--only", metavar="MODEL", help="only this model")
    parser.add_argument("--rows", type=pathlib.Path, default=HERE / "models.tsv")
    options = parser.parse_args()
    rows = [row for row in rows_of(options.rows)
            if (not options.quick or row.when == "quick")
            and (not options.only or row.model == options.only)]
    if not rows:
        sys.exit("models.py: no such row")
    print(f"{'model':16} {'switches':44} {'verdict':8}{'states':>11} {'time':>8}  what was caught")
    differing = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for result in pool.map(check, rows):
            report(result)
            differing += result.differs()
    print(f"{len(rows) - differing} as expected, {differing} different")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
