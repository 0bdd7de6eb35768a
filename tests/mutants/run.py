#!/usr/bin/env python3
"""Runs the negative controls: with one mutant switched on, the tests of its row must fail.

Each row of kill_table.tsv names a mutant (see generate.py), the invariant it breaks, a test binary and
the filter of the tests that must notice. A row counts as killed only if those tests pass without the
mutant and fail with it, by a failed expectation, an abort or a hang. A survivor, a mutant without a row
and a row without a mutant all fail the run.

If the tests of a row are skipped, because this machine lacks something that they need, the row could
not be tried: it is counted apart and printed with the reason. That fails the run only with CI=true in
the environment, and not even there if the reason is a /dev/kvm that this machine does not have.

The memory orders of mmu/ are mutants too. x86 hides most weakenings, so no test can kill them: the
models of tests/model do, by tests/model/orders.tsv, which must have each order in the code.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[1:1] = [str(TESTS), str(TESTS / "model")]
import generate  # noqa: E402
import orders  # noqa: E402
import skipped  # noqa: E402
from generate import Row  # noqa: E402

TESTS_RUN = re.compile(r"\[==========\] (\d+) tests? from .* ran\.")
RUNNING_TEST = re.compile(r"^\[ RUN      \] ([\w/.]+)", re.MULTILINE)
FAILED_TEST = re.compile(r"^\[  FAILED  \] ([\w/.]+)", re.MULTILINE)
BASELINE_SECONDS = 60
MUTANT_SECONDS = 20
# A stress test may need more than one seed to meet the race; a unit or race test needs one.
SEEDS = (1, 2, 3)
KILLED = "killed"
SURVIVED = "SURVIVED"
UNTRIED = "not tried"


@dataclasses.dataclass(frozen=True)
class Verdict:
    mutant: str
    invariant: str
    result: str  # KILLED, SURVIVED or UNTRIED
    how: str

    def fails_in_ci(self):
        without_kvm = "/dev/kvm" in self.how and not os.access("/dev/kvm", os.R_OK | os.W_OK)
        return self.result == UNTRIED and not without_kvm


# Tests of these binaries change the host as a whole, which one process at a time may do.
CHANGES_HOST = {"host_changes_test", "huge_pages_test", "swapped_ring_test"}
HOST = threading.Lock()


def run_tests(row, build, mutant, seed, limit):
    """The exit code (None after a time-out) and the output."""
    environment = dict(os.environ, UNDERFOOT_SEED=str(seed))
    environment.pop("UNDERFOOT_MUTANT", None)
    if mutant:
        environment["UNDERFOOT_MUTANT"] = mutant
    command = [str(build / row.binary), f"--gtest_filter={row.filter}", "--gtest_catch_exceptions=0"]
    host = HOST if row.binary in CHANGES_HOST else contextlib.nullcontext()
    try:
        with host:
            done = subprocess.run(command, env=environment, timeout=limit, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except subprocess.TimeoutExpired as expired:
        return None, (expired.stdout or b"").decode(errors="replace")
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


BASELINES = {}


def run_without_mutant(row, build):
    """As run_tests; rows that have the same tests have one run."""
    tests = build, row.binary, row.filter
    if tests not in BASELINES:
        BASELINES[tests] = run_tests(row, build, None, SEEDS[0], BASELINE_SECONDS)
    return BASELINES[tests]


def how_it_failed(code, output):
    if code is None:
        return f"hang of {MUTANT_SECONDS} s"
    failed = FAILED_TEST.search(output)
    if failed:
        return failed.group(1)
    what = signal.Signals(-code).name if code < 0 else f"exit {code}"
    running = RUNNING_TEST.findall(output)
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(("[", "Note:"))]
    said = f": {lines[-1][-50:]}" if lines else ""
    return f"{what} in {running[-1]}{said}" if running else what + said


def judge(row, build):
    def survived(why):
        return Verdict(row.mutant, row.invariant, SURVIVED, why)

    code, output = run_without_mutant(row, build)
    ran = TESTS_RUN.search(output)
    if code != 0:
        return survived(f"fails without the mutant: {how_it_failed(code, output)}")
    if not ran or ran.group(1) == "0":
        return survived(f"{row.binary} has no test '{row.filter}'")
    skips = skipped.REASON.findall(output)
    untried = Verdict(row.mutant, row.invariant, UNTRIED, skips[0].strip() if skips else "")
    if skips and "[       OK ]" not in output:
        return untried
    for seed in SEEDS:
        code, output = run_tests(row, build, row.mutant, seed, MUTANT_SECONDS)
        if code != 0:
            return Verdict(row.mutant, row.invariant, KILLED, how_it_failed(code, output))
    # A test that was skipped might have killed it.
    return untried if skips else survived(f"{row.binary} {row.filter} still passes")


def judge_orders(places, pool):
    """The weakened orders: each is checked once, however many places of the code it stands for."""
    weakened = sorted({(place.model, place.order) for place in places if place.model})
    # First: the orders of one model wait for one compiler.
    list(pool.map(orders.build, sorted({model for model, _ in weakened})))
    caught = dict(zip(weakened, pool.map(lambda pair: orders.judge(*pair), weakened)))
    for place in places:
        if place.model:
            killed, said = caught[(place.model, place.order)]
            yield Verdict(f"{place.file}: {place.text}: {orders.weakening(place)}", place.invariant,
                          KILLED if killed else SURVIVED, f"model: {place.model} {place.order}: {said}"[:70])


def print_unjudged(places):
    unjudged = [place for place in places if not place.model]
    print("\norders that no model weakens, and why:" if unjudged else "")
    for place in unjudged:
        print(f"  {place.file}: {place.text}: {place.reason}")


def print_table(verdicts):
    table = [("mutant", "invariant", "killed by", "verdict")]
    for verdict in verdicts:
        table.append((verdict.mutant, verdict.invariant, verdict.how, verdict.result))
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for row in table:
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=TESTS.parent / "build-mutants",
                        help="the build with mutants (default: build-mutants)")
    parser.add_argument("--rows", type=pathlib.Path, default=generate.KILL_TABLE)
    parser.add_argument("--only", metavar="MUTANT",
                        help="judge this mutant alone; 'orders': the models' part alone")
    parser.add_argument("--targets", action="store_true", help="only list the binaries to build")
    options = parser.parse_args()
    try:
        rows = generate.rows_of(options.rows)
        complaints = generate.complaints(rows, generate.mutants_in(), options.rows.name)
    except (generate.Mismatch, OSError) as error:
        sys.exit(f"run.py: {error}")
    if options.only and options.only != "orders":
        rows = [row for row in rows if row.mutant == options.only]
        if not rows:
            print(f"run.py: --only: kill_table.tsv has no mutant '{options.only}'", file=sys.stderr)
            sys.exit(2)
    if options.targets:
        print("\n".join(sorted({row.binary for row in rows})))
        return

    places = orders.places_of()
    complaints += orders.complaints(places)
    if options.only == "orders":
        rows = []
    elif options.only:
        places = []

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        verdicts = list(pool.map(lambda row: judge(row, options.build.resolve()), rows))
        verdicts += judge_orders(places, pool)
    print_table(verdicts)
    print_unjudged(places)
    for complaint in complaints:
        print(complaint)
    survivors = [verdict for verdict in verdicts if verdict.result == SURVIVED]
    untried = [verdict for verdict in verdicts if verdict.result == UNTRIED]
    for verdict in untried:
        print(f"could not be tried here: {verdict.mutant}: {verdict.how}")
    for verdict in survivors:
        print(f"SURVIVED: {verdict.mutant}: {verdict.how}")
    failures = len(survivors) + len(complaints)
    if os.environ.get("CI") == "true":
        failures += sum(verdict.fails_in_ci() for verdict in untried)
    killed = len(verdicts) - len(survivors) - len(untried)
    print(f"{killed} of {len(verdicts)} rows killed, {len(survivors)} survived, {len(untried)} could "
          f"not be tried here, {len(complaints)} complaints")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
