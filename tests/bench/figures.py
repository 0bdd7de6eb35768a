"""The JSON of underfoot_bench: reading it, and writing its figures for people."""

import json


class Wrong(Exception):
    """What a user has to hear in one line."""


def load(path):
    """The results of a run."""
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except OSError as error:
        raise Wrong(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise Wrong(f"'{path}' is not JSON: {error}") from error
    if not isinstance(results, dict) or "comparisons" not in results or "commit" not in results:
        raise Wrong(f"'{path}' is no result of ./dev bench; make one by ./dev bench --json={path}")
    return results


def run_of(results, comparison=None):
    """Where, and of what version, a comparison was measured: see merge.py."""
    own = {name: results[name]
           for name in ("machine", "commit", "effort", "seed", "processes", "others")
           if name in results}
    run = comparison.get("run", own) if comparison else own
    return {"processes": 1, **run}  # results from before there were several do not name them


def quiet(run):
    """Whether times of this run can be compared with those of another one, and not only ratios."""
    return run["others"] <= 0.02 if "others" in run else run["machine"]["load"] <= 0.5


def others_text(run):
    if "others" in run:
        return f"others took {100 * run['others']:.1f} % of the CPUs' time"
    return f"the load was {run['machine']['load']:.1f} when the run began"  # of an older version


def runs(results):
    """The runs that the comparisons come from: the results' own, then those that were merged into it."""
    found = [run_of(results)]
    for comparison in results["comparisons"]:
        run = run_of(results, comparison)
        if run not in found:
            found.append(run)
    return found


def measured(variant):
    return variant["samples"] > 0


def three_digits(value):
    """As printf's %.3g, but never in powers of ten."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


SCALES = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (0, "ns")),
    "bytes": ((1e6, "MB"), (1e3, "KB"), (0, "bytes")),
}


def text(figure, unit):
    """A figure with its unit, as in "1.23 us"."""
    for least, name in SCALES.get(unit, ((0, unit),)):
        if figure >= least:
            return f"{three_digits(figure / (least or 1))} {name}"
    return f"{three_digits(figure)} {unit}"


def spread_text(spread):
    return f"{three_digits(spread['low'])} to {three_digits(spread['high'])}"


def curves(results):
    """Curve -> its comparisons, ordered by the value of the variable."""
    found = {}
    for comparison in results["comparisons"]:
        if "sweep" in comparison:
            found.setdefault(comparison["sweep"]["curve"], []).append(comparison)
    for points in found.values():
        points.sort(key=lambda comparison: comparison["sweep"]["value"])
    return found
