#!/usr/bin/env python3
"""Runs a storm of churn in each combination of backing, huge pages and number of fault handlers.

Usage: storm_matrix.py [--duration TIME] [--only TEXT] PROGRAM

Prints one line for each run. Fails if a run did not pass, if it was no storm, or if a run on huge pages
brought in no block. The options and the whole summary of such a run are printed below its line. As root:
a run adds swap space, runs KSM and reserves huge pages for its time.
"""

import argparse
import itertools
import json
import shlex
import subprocess
import sys

BACKINGS = ("anon", "memfd")
HUGE_PAGES = ("off", "thp", "2M")
HANDLERS = (1, 2, 4)
# A preset is a rate: `storm` asks for more than this host can do, `mixed` leaves time to come in again.
CHURN = ("storm", "mixed")
# The end of a run, and what waits for the audit of a busy host.
MORE_SECONDS = 300
SECONDS_TO_END = 30  # after a signal

COLUMNS = "{:<6} {:<5} {:>8} {:>5} {:<6} {:>10} {:>10} {:>7} {:>6} {:>6} {:>5}  {}"


def runs():
    """Each combination under each churn. The vCPUs take turns: 2, 3, 4."""
    for number, (backing, huge, handlers) in enumerate(itertools.product(BACKINGS, HUGE_PAGES, HANDLERS)):
        for churn in CHURN:
            yield backing, huge, handlers, 2 + number % 3, churn


def problems_of(huge, summary):
    """What is wrong with a run, also where its own verdict does not say so."""
    problems = list(summary["problems"])
    if not summary["passed"] and not problems:
        problems.append("it did not pass")
    if "stats" not in summary:
        return problems or ["it did not start"]
    stats = summary["stats"]
    counts = {
        "mismatches": stats["guest"]["mismatches"],
        "differences that nothing explains": stats["audit"]["unexplained"],
        "pages missing from the dirty log": stats["dirty_log"]["missed"],
    }
    problems += [f"{count} {name}" for name, count in counts.items() if count != 0]
    # A run that has moved or checked nothing says nothing.
    seen = {
        "churn": sum(stats["churn"]["operations"].values()),
        "page that the guest checked": stats["guest"]["pages_checked"],
        "check of the auditor": stats["audit"]["checks"],
        "collection of the dirty log": stats["dirty_log"]["collections"],
    }
    if huge != "off":
        seen["block that a fault brought in"] = stats["uffd"]["blocks"]
    problems += [f"no {name}" for name, count in seen.items() if count == 0]
    return problems


def line_of(run, summary, problems):
    stats = summary.get("stats")
    if stats is None:
        numbers = ["-"] * 6
    else:
        numbers = [
            sum(stats["churn"]["operations"].values()),
            stats["guest"]["pages_checked"],
            stats["uffd"]["blocks"],
            stats["guest"]["mismatches"],
            stats["audit"]["unexplained"],
            stats["dirty_log"]["missed"],
        ]
    return COLUMNS.format(*run, *numbers, "FAILED" if problems else "good")


def end(running):
    """Ends a run by signals; what it wrote to its standard error."""
    # The second signal ends it at once, with the changes of the host undone.
    for signal in (running.terminate, running.terminate, running.kill):
        signal()
        try:
            return running.communicate(timeout=SECONDS_TO_END)[1]
        except subprocess.TimeoutExpired:
            continue
    return running.communicate()[1]


def run_one(program, duration, run):
    backing, huge, handlers, vcpus, churn = run
    command = [
        program, "run", "--backing", backing, "--huge-pages", huge, "--fault-handlers", str(handlers),
        "--vcpus", str(vcpus), "--churn", churn, "--memory", "256M", "--dirty-log", "100ms",
        "--duration", duration, "--allow-host-changes", "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            output, errors = running.communicate(timeout=seconds_of(duration) + MORE_SECONDS)
        except subprocess.TimeoutExpired:
            output, errors = "", "it did not end\n" + end(running)
    try:
        summary = json.loads(output)
    except json.JSONDecodeError:
        summary = {"passed": False, "problems": ["no summary"]}
    problems = problems_of(huge, summary)
    print(line_of(run, summary, problems), flush=True)
    if problems:
        print("  " + shlex.join(command))
        print("".join(f"  {problem}\n" for problem in problems) + errors + output, flush=True)
    return not problems


def seconds_of(duration):
    for unit, seconds in (("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)):
        number = duration.removesuffix(unit)
        if number != duration:
            return float(number) * seconds
    raise ValueError(f"--duration wants a time like 15s or 1m, not '{duration}'")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duration", default="15s", help="of each run")
    parser.add_argument("--only", default="", help="only lines that contain this text, e.g. 'memfd  thp'")
    parser.add_argument("program", help="build/underfoot")
    options = parser.parse_args()
    try:
        seconds_of(options.duration)
    except ValueError as error:
        sys.exit(f"storm_matrix.py: {error}")
    print(COLUMNS.format("memory", "pages", "handlers", "vCPUs", "churn", "operations", "checked",
                         "blocks", "wrong", "stale", "log", ""))
    chosen = [run for run in runs() if options.only in " ".join(map(str, run))]
    failed = sum(not run_one(options.program, options.duration, run) for run in chosen)
    print(f"{len(chosen)} runs, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)


if __name__ == "__main__":
    main()
