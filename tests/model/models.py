#!/usr/bin/env python3
"""Runs the models of the lock-free protocols and compares every verdict with models.tsv.

A row that must hold is explored in full, and the number of its states (spin), schedules (relacy)
or cases (exhaustive) is compared too: a model that quietly explores less proves less. A row that
breaks or weakens a step must be caught. The table in README.md must be the one that --table
prints. Any difference fails the run.
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
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ("safety", "liveness", "relacy", "exhaustive")
TABLE_BEGIN = "<!-- models.py --table -->\n"
TABLE_END = "<!-- end -->\n"
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
        if tool not in TOOLS or verdict not in ("holds", "caught"):
            sys.exit(f"{path}:{number}: tool '{tool}' or verdict '{verdict}' is unknown")
        switches = tuple(switch for switch in switches.split() if switch != "-")
        rows.append(Row(number, tool, model, switches, verdict, states, when))
    return rows


def run(command, directory, limit=ROW_SECONDS, environment=None):
    done = subprocess.run(command, cwd=directory, timeout=limit, stdin=subprocess.DEVNULL,
                          env=dict(os.environ, **(environment or {})), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def must(command, directory):
    code, output = run(command, directory)
    if code != 0:
        raise RuntimeError(f"{command[0]} failed: {output.strip()[-300:]}")
    return output


class Programs:
    """The relacy models, each built once, whatever the number of its rows."""

    def __init__(self):
        self._directory = None
        self._lock = threading.Lock()
        self._locks = {}

    def path(self, model):
        with self._lock:
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(prefix="underfoot-model-")
            lock = self._locks.setdefault(model, threading.Lock())
        program = pathlib.Path(self._directory.name) / model
        with lock:
            if not program.exists():
                # The relacy headers predate C++20 and our warnings: they are system headers here.
                must(["g++", "-std=c++11", "-O1", "-w", "-I", str(HERE), "-o", str(program),
                      str(HERE / f"{model}.cc")], self._directory.name)
        return program


PROGRAMS = Programs()


def spin(row, directory):
    """Verdict, states and a note; `liveness` rows check the model's ltl claim with weak fairness."""
    must(["spin", *defines(row), "-a", str(HERE / f"{row.model}.pml")], directory)
    how = ["-DSAFETY"] if row.tool == "safety" else ["-DNFAIR=8"]
    # A short search is over before a better program is compiled.
    optimize = "-O2" if row.when == "full" and row.verdict == "holds" else "-O1"
    must(["gcc", optimize, "-w", *how, "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c"],
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
    environment = {"UNDERFOOT_WEAKEN": "".join(row.switches)}
    code, output = run([str(PROGRAMS.path(row.model))], directory, environment=environment)
    schedules = re.search(r"iterations?: (\d+)", output)
    if code not in (0, 1) or not schedules:
        raise RuntimeError(f"exit {code}: {output.strip()[-300:]}")
    return verdict_of(code), int(schedules.group(1)), loud_line(output)


def exhaustive(row, directory):
    """A program that compares the code with its specification for every input of a small width."""
    must(["g++", "-std=c++20", "-O2", "-I", str(ROOT), *defines(row), "-o", "model",
          str(HERE / f"{row.model}.cc")], directory)
    code, output = run(["./model"], directory)
    cases = re.search(r"^(\d+) ", output, re.MULTILINE)
    if code not in (0, 1) or (code == 0 and not cases):
        raise RuntimeError(f"exit {code}: {output.strip()[-300:]}")
    return verdict_of(code), int(cases.group(1)) if cases else 0, loud_line(output)


def defines(row):
    return [f"-D{switch}" for switch in row.switches]


def verdict_of(code):
    return "caught" if code == 1 else "holds"


def loud_line(output):
    """What a checker found, which it says in capitals."""
    what = re.search(r"^([A-Z][A-Z ]{3,}.*)$", output, re.MULTILINE)
    return what.group(1).strip() if what else ""


def check(row):
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="underfoot-model-") as directory:
        try:
            judge = {"relacy": relacy, "exhaustive": exhaustive}.get(row.tool, spin)
            verdict, states, note = judge(row, directory)
        except subprocess.TimeoutExpired:
            verdict, states, note = "timeout", 0, f"no answer in {ROW_SECONDS} s"
        except RuntimeError as error:
            verdict, states, note = "error", 0, str(error)
    return Result(row, verdict, states, time.monotonic() - started, note)


def report(result):
    row = result.row
    print(f"{row.model:17} {' '.join(row.switches) or '-':48} {result.verdict:8}"
          f"{result.states:>11} {result.seconds:6.1f} s  {result.note[:70]}")
    if result.differs():
        print(f"  DIFFERS from models.tsv:{row.line}: expected {row.verdict}, {row.states} states")
    sys.stdout.flush()


def table(rows):
    """For README.md: what holds, how much of it was explored, and what must be caught."""
    lines = ["| model | sizes | tool | explored | caught |", "|---|---|---|---|---|"]
    for model in dict.fromkeys(row.model for row in rows):
        of_model = [row for row in rows if row.model == model]
        caught = sum(row.verdict == "caught" for row in of_model)
        for number, row in enumerate(row for row in of_model if row.verdict == "holds"):
            sizes = " ".join(row.switches) or "as written"
            lines.append(f"| `{model}` | {sizes} | {row.tool} | {int(row.states):,} | "
                         f"{caught if number == 0 else ''} |")
    return "\n".join(lines) + "\n"


def readme_differs(rows):
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return TABLE_BEGIN + "\n" + table(rows) + "\n" + TABLE_END not in text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="only the rows marked quick")
    parser.add_argument("--only", metavar="MODEL", help="only this model")
    parser.add_argument("--rows", type=pathlib.Path, default=HERE / "models.tsv")
    parser.add_argument("--table", action="store_true", help="print the table for README.md")
    options = parser.parse_args()
    all_rows = rows_of(options.rows)
    if options.table:
        sys.stdout.write(table(all_rows))
        return
    rows = [row for row in all_rows
            if (not options.quick or row.when == "quick")
            and (not options.only or row.model == options.only)]
    if not rows:
        sys.exit("models.py: no such row")
    print(f"{'model':17} {'switches':48} {'verdict':8}{'states':>11} {'time':>8}  what was caught")
    differing = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for result in pool.map(check, rows):
            report(result)
            differing += result.differs()
    print(f"{len(rows) - differing} as expected, {differing} different")
    stale = readme_differs(all_rows)
    if stale:
        print("README.md does not have the table that models.py --table prints")
    sys.exit(1 if differing or stale else 0)


if __name__ == "__main__":
    main()
