#!/usr/bin/env python3
"""Compares two runs of the benchmarks.

  compare.py OLD.json NEW.json

A ratio is compared where there is one, since ratios move less than times; else the median of the
rounds. A change is marked with ! if the middle halves of the two runs do not overlap.
"""

import sys

import figures


def spread_of(variant, is_first):
    """What is compared: (kind, low, median, high)."""
    if not is_first and variant["ratio"]:
        kind, spread = "ratio", variant["ratio"]
    else:
        kind, spread = "time", variant["round_medians"]
    return kind, spread["low"], spread["median"], spread["high"]


def changes(old, new):
    """One row for each figure that both runs have: (name, kind, old, new, change, beyond)."""
    before = {comparison["name"]: comparison for comparison in old["comparisons"]}
    for comparison in new["comparisons"]:
        earlier = before.get(comparison["name"])
        if earlier is None or earlier["unit"] != comparison["unit"]:
            continue
        variants = {variant["name"]: variant for variant in earlier["variants"]}
        for index, variant in enumerate(comparison["variants"]):
            other = variants.get(variant["name"])
            if other is None or not figures.measured(variant) or not figures.measured(other):
                continue
            is_first = index == 0 or not other["ratio"]
            kind, low, median, high = spread_of(variant, is_first)
            other_kind, other_low, other_median, other_high = spread_of(other, is_first)
            if kind != other_kind or other_median == 0:
                continue
            beyond = low > other_high or high < other_low
            yield (f"{comparison['name']}: {variant['name']}",
                   kind if comparison["unit"] == "ns" or kind == "ratio" else comparison["unit"],
                   other_median, median, median / other_median - 1, beyond)


def differences(old, new):
    """Conditions that make the figures that both runs have hard to compare."""
    before = {comparison["name"]: comparison for comparison in old["comparisons"]}
    found = []
    for comparison in new["comparisons"]:
        if comparison["name"] not in before:
            continue
        runs = (figures.run_of(old, before[comparison["name"]]), figures.run_of(new, comparison))
        pairs = [(name, *(run["machine"][name] for run in runs))
                 for name in ("cpu", "cpus", "kernel", "kvm", "compiler")]
        pairs += [(name, *(run[name] for run in runs)) for name in ("effort", "seed", "processes")]
        found += [f"{name}: {earlier}, now {now}" for name, earlier, now in pairs if earlier != now]
    return list(dict.fromkeys(found))


def report(old, new):
    lines = [f"commit {old['commit'] or 'unknown'}, now {new['commit'] or 'unknown'}; "
             f"{figures.others_text(old)}, now {figures.others_text(new)}"]
    lines += [f"Not the same conditions: {difference}" for difference in differences(old, new)]
    rows = list(changes(old, new))
    if not rows:
        return lines + ["The two runs have no figure in common."]
    width = max(len(row[0]) for row in rows)
    lines.append("")
    for name, kind, before, after, change, beyond in rows:
        lines.append(f"{'!' if beyond else ' '} {name:<{width}}  {kind:<6} "
                     f"{figures.three_digits(before):>10} {figures.three_digits(after):>10} "
                     f"{100 * change:+8.1f} %")
    marked = sum(row[5] for row in rows)
    lines += ["", f"{marked} of {len(rows)} figures moved by more than both spreads (marked !)."]
    return lines


def main(arguments):
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print("\n".join(report(figures.load(arguments[0]), figures.load(arguments[1]))))
    except figures.Wrong as wrong:
        print(f"compare.py: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
