#!/usr/bin/env python3
"""Draws the figures of a run: one picture for each curve, each comparison, the reader protections, and
each curve of the contention model.

  plot.py RESULTS.json FOLDER [--svg-only] [NAME ...]

FOLDER gets NAME.svg and NAME.png. Without names everything is drawn.
"""

import pathlib
import sys
import textwrap

import contention_model
import figures

# Variants that have other names in the two comparisons of the picture of reader protections.
PROTECTIONS = "protections"
ACCESS = "cache.access.alone"
WAIT = "cache.invalidate_and_wait"
RENAMED = {
    "pfn cache: check, load, leave": "pfn cache, busy reader, first in a while",
    "the same, among invalidations": "pfn cache, busy reader",
}
LABELS = {
    "pfn cache: check, load, leave": "ours, in quiet times",
    "the same, among invalidations": "ours, among invalidations",
}


def by_name(results, name):
    for comparison in results["comparisons"]:
        if comparison["name"] == name:
            return comparison
    return None


def names(results):
    """Everything that can be drawn of these results."""
    found = list(figures.curves(results))
    found += [comparison["name"] for comparison in results["comparisons"]
              if "sweep" not in comparison]
    both = [by_name(results, name) for name in (ACCESS, WAIT)]
    # A scheme's two costs belong on one picture only if they were measured in one run.
    if all(both) and len({str(figures.run_of(results, one)) for one in both}) == 1:
        found.append(PROTECTIONS)
    return found + list(contention_model.all_curves(results))


def points(curve):
    """Variant -> x, medians, lows, highs, p99s of a curve."""
    lines = {}
    for comparison in curve:
        for variant in comparison["variants"]:
            if not figures.measured(variant):
                continue
            line = lines.setdefault(variant["name"], ([], [], [], [], []))
            spread = variant["round_medians"]
            for values, value in zip(line, (comparison["sweep"]["value"], spread["median"],
                                            spread["low"], spread["high"], variant["p99"])):
                values.append(value)
    return lines


def protections(results):
    """(label, ns of an access, spread, us of an invalidation, spread) of each scheme."""
    waits = {variant["name"]: variant for variant in by_name(results, WAIT)["variants"]}
    for access in by_name(results, ACCESS)["variants"]:
        wait = waits.get(RENAMED.get(access["name"], access["name"]))
        if wait and figures.measured(access) and figures.measured(wait):
            yield (LABELS.get(access["name"], access["name"]), access["round_medians"],
                   wait["round_medians"])


def error(spread, scale=1):
    return [[max(spread["median"] - spread["low"], 0) / scale],
            [max(spread["high"] - spread["median"], 0) / scale]]


def logarithmic(values):
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > 20 * min(positive)


def draw_curve(axes, curve):
    lines = points(curve)
    styles = ("o", "s", "^", "v", "D", "P", "X")
    for index, (name, (x, medians, lows, highs, p99s)) in enumerate(lines.items()):
        line, = axes.plot(x, medians, marker=styles[index % len(styles)], label=name)
        axes.fill_between(x, lows, highs, alpha=0.2, color=line.get_color())
        axes.plot(x, p99s, linestyle=":", linewidth=1, color=line.get_color())
    everything = [value for line in lines.values() for values in line[1:] for value in values]
    if logarithmic(everything):
        axes.set_yscale("symlog" if min(everything) <= 0 else "log")
    values = [comparison["sweep"]["value"] for comparison in curve]
    if logarithmic(values):
        axes.set_xscale("symlog" if min(values) <= 0 else "log")
        axes.set_xlim(left=min(values), right=max(values))
    axes.set_xlabel(curve[0]["sweep"]["variable"].replace("_", " "))
    axes.set_ylabel(curve[0]["unit"])
    axes.set_title(f"{curve[0]['sweep']['curve']}\nline: median, band: middle half of the rounds, "
                   "dotted: p99", fontsize=9)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def draw_bars(axes, comparison):
    variants = [variant for variant in comparison["variants"] if figures.measured(variant)]
    for index, variant in enumerate(variants):
        spread = variant["round_medians"]
        axes.barh(index, spread["median"], xerr=error(spread), capsize=3, color="tab:blue",
                  alpha=0.7, label="median, with the middle half of the rounds" if not index else None)
        axes.plot(variant["p99"], index, "k|", markersize=10, label="p99" if not index else None)
    axes.set_yticks(range(len(variants)), [variant["name"] for variant in variants], fontsize=7)
    axes.invert_yaxis()
    if logarithmic([value for variant in variants
                    for value in (variant["round_medians"]["median"], variant["p99"])]):
        axes.set_xscale("log")
    axes.set_xlabel(comparison["unit"])
    axes.set_title(f"{comparison['name']}\n{textwrap.fill(comparison['what'], 70)}", fontsize=8)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3, axis="x")


def draw_protections(axes, results):
    for index, (label, access, wait) in enumerate(protections(results)):
        axes.errorbar(access["median"], wait["median"] / 1e3, xerr=error(access),
                      yerr=error(wait, 1e3), capsize=2, label=label,
                      fmt="osv^DPX<>"[index % 9])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("ns for an access, one reader alone")
    axes.set_ylabel("us for an invalidation that waits for one busy reader")
    axes.set_title("Reader protections: bars are the middle half of the rounds", fontsize=9)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def draw_model(axes, curve):
    for index, line in enumerate(curve.lines):
        axes.plot(list(line.points), list(line.points.values()), linestyle="--",
                  marker="os^vDPX"[index % 7], markerfacecolor="none", label=line.label)
    for published in curve.published:
        axes.plot(published.cores, published.figure, "k*", markersize=12, label=published.label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(contention_model.CORES, map(str, contention_model.CORES), fontsize=7)
    axes.set_yscale("log")
    axes.set_xlabel("cores")
    axes.set_ylabel(curve.unit)
    axes.set_title(f"MODEL, not measured: {curve.name}\n{textwrap.fill(curve.what, 80)}", fontsize=8)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def draw(results, name, folder, kinds):
    import matplotlib  # here, so that the rest of this file needs no matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(figsize=(7, 4.5), constrained_layout=True)
    if name == PROTECTIONS:
        draw_protections(axes, results)
    elif name in contention_model.all_curves(results):
        draw_model(axes, contention_model.all_curves(results)[name])
    elif name in figures.curves(results):
        draw_curve(axes, figures.curves(results)[name])
    else:
        draw_bars(axes, by_name(results, name))
    paths = []
    for kind in kinds:
        path = folder / f"{name}.{kind}"
        figure.savefig(path, metadata={"Date": None} if kind == "svg" else None, dpi=120)
        paths.append(path)
    pyplot.close(figure)
    return paths


def main(arguments):
    kinds = ("svg",) if "--svg-only" in arguments else ("svg", "png")
    arguments = [argument for argument in arguments if argument != "--svg-only"]
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        results = figures.load(arguments[0])
        known = names(results)
        wanted = arguments[2:] or known
        for name in wanted:
            if name not in known:
                raise figures.Wrong(f"'{arguments[0]}' has nothing named '{name}' to draw; "
                                    f"it has {', '.join(known) or 'nothing'}")
        folder = pathlib.Path(arguments[1])
        folder.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            for path in draw(results, name, folder, kinds):
                print(path)
    except figures.Wrong as wrong:
        print(f"plot.py: {wrong}", file=sys.stderr)
        return 1
    except ImportError:
        print("plot.py: matplotlib is missing; install python3-matplotlib, or use "
              "./dev bench --plots, which does", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
