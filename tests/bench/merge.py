#!/usr/bin/env python3
"""Puts the comparisons of one run into the results of another one.

  merge.py INTO.json NEW.json

A comparison that both have is replaced as a whole, and one that is new goes to the end: the variants
of a comparison took turns in one process, and never come from two runs. Each comparison that INTO
has from another run than its own names that run: what figures.run_of returns.
"""

import json
import os
import sys

import figures


def merged(old, new):
    """The results of `old` with the comparisons of `new`."""
    own_run = figures.run_of(old)
    comparisons = list(old["comparisons"])
    places = {comparison["name"]: place for place, comparison in enumerate(comparisons)}
    for comparison in new["comparisons"]:
        run = figures.run_of(new, comparison)
        comparison = {key: value for key, value in comparison.items() if key != "run"}
        if run != own_run:
            comparison["run"] = run
        if comparison["name"] in places:
            comparisons[places[comparison["name"]]] = comparison
        else:
            comparisons.append(comparison)
    measured = {comparison["name"] for comparison in comparisons}
    skipped = {row["name"]: row for row in old["skipped"] + new["skipped"]
               if row["name"] not in measured}
    return {**old, "comparisons": comparisons, "skipped": list(skipped.values())}


def main(arguments):
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    into, new = arguments
    try:
        results = merged(figures.load(into), figures.load(new))
        # As report.cc: in one step, and with the same layout.
        fresh = f"{into}.new"
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        os.replace(fresh, into)
    except figures.Wrong as wrong:
        print(f"merge.py: {wrong}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"merge.py: cannot write '{into}': {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
