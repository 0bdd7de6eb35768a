#!/usr/bin/env python3
"""Writes the figures into docs/ANSWERS.md, from the results of a run.

  answers.py RESULTS.json [--check]

Between <!-- figures N --> and <!-- end --> stands what answers question N: the figures, the tests,
models and mutants, the commands, the pictures. Between <!-- conditions --> and <!-- end --> stand the
conditions of the run. The text outside is written by hand and names no figure. With --check nothing
is written, and the exit code is 1 if something would be.
"""

import pathlib
import re
import sys

import contention_model
import figures
import questions

ROOT = questions.HERE.parent.parent
ANSWERS = ROOT / "docs/ANSWERS.md"
BLOCK = re.compile(r"(<!-- (conditions|figures (\d+)) -->\n).*?(<!-- end -->)", re.DOTALL)


def escaped(text):
    return text.replace("|", "\\|")


def goal_text(variant, unit):
    if "goal" not in variant:
        return ""
    goal = variant["goal"]
    limit = (f"{goal['at_most']:.2f} times" if goal["of"] == "ratio"
             else f"{goal['of']} {figures.text(goal['at_most'], unit)}")
    value = variant["ratio"]["median"] if goal["of"] == "ratio" else variant[goal["of"]]
    return (f"{limit}: {'met' if goal['met'] else 'missed'}, "
            f"{figures.three_digits(value / goal['at_most'])} of it")


def run_text(results, comparisons):
    """Which run these come from, as the conditions number it; nothing for the results' own."""
    runs = figures.runs(results)
    numbers = {runs.index(figures.run_of(results, comparison)) + 1 for comparison in comparisons}
    if numbers == {1}:
        return ""
    return f", run{'s' if len(numbers) > 1 else ''} " + " and ".join(map(str, sorted(numbers)))


def comparison_table(comparison, results):
    lines = [f"**{comparison['name']}**: {comparison['what']} ({comparison['rounds']} rounds"
             f"{run_text(results, [comparison])})", "",
             "| variant | median | p99 | max | ratio | its middle half | limit |",
             "|---|---|---|---|---|---|---|"]
    for variant in comparison["variants"]:
        if not figures.measured(variant):
            lines.append(f"| {escaped(variant['name'])} | every turn was disturbed | | | | | |")
            continue
        ratio = variant["ratio"]
        lines.append("| " + " | ".join((
            escaped(variant["name"]), figures.text(variant["median"], comparison["unit"]),
            figures.text(variant["p99"], comparison["unit"]),
            figures.text(variant["max"], comparison["unit"]),
            figures.three_digits(ratio["median"]) if ratio else "",
            figures.spread_text(ratio) if ratio else "",
            goal_text(variant, comparison["unit"]))) + " |")
    return lines + [""]


def curve_table(points, results):
    """A row for each variant, a column for each point: the median, and the p99 in brackets."""
    first = points[0]
    sweep = first["sweep"]
    lines = [f"**{sweep['curve']}** over {sweep['variable'].replace('_', ' ')}: median "
             f"(p99){run_text(results, points)}. The last point: {points[-1]['what']}.", "",
             "| variant | " + " | ".join(f"{point['sweep']['value']:g}" for point in points) + " |",
             "|---|" + "---|" * len(points)]
    for variant in first["variants"]:
        cells = []
        for point in points:
            same = [other for other in point["variants"] if other["name"] == variant["name"]]
            cells.append(f"{figures.text(same[0]['median'], point['unit'])} "
                         f"({figures.text(same[0]['p99'], point['unit'])})"
                         if same and figures.measured(same[0]) else "-")
        lines.append(f"| {escaped(variant['name'])} | " + " | ".join(cells) + " |")
    return lines + [""]


def figures_of(question, results):
    lines = []
    curves = figures.curves(results)
    done = set()
    for comparison in question.comparisons(results):
        if "sweep" not in comparison:
            lines += comparison_table(comparison, results)
        elif comparison["sweep"]["curve"] not in done:
            done.add(comparison["sweep"]["curve"])
            lines += curve_table(curves[comparison["sweep"]["curve"]], results)
    return lines


def models_of(question, results):
    """What is computed for more cores than there were."""
    lines = []
    for model in question.rows["contention"]:
        try:
            lines += contention_model.tables(results, model)
        except contention_model.Missing as missing:
            lines += [f"The model `{model}` was not computed: {missing}.", ""]
    return lines


def explored(model):
    """What models.tsv says that the holding rows of a model explore."""
    rows = [line.split("\t") for line in
            (ROOT / "tests/model/models.tsv").read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")]
    mine = [row for row in rows if row[1] == model]
    counts = [int(row[4]) for row in mine if row[3] == "holds"]
    caught = sum(row[3] == "caught" for row in mine)
    return f"`{model}` ({sum(counts):,} states or schedules in {len(counts)} runs, {caught} breaks caught)"


def shown_by(question):
    rows = question.rows
    lines = [f"- PUBLISHED, not ours: {text}" for text in rows["published"]]
    if rows["test"]:
        lines.append("- Tests: " + ", ".join(f"`{test}` ({binary})" for binary, test in rows["test"])
                     + ".")
    if rows["model"]:
        lines.append("- Models: " + ", ".join(map(explored, rows["model"])) + ".")
    if rows["mutant"]:
        lines.append("- Mutants that a test kills: "
                     + ", ".join(f"`{mutant}`" for mutant in rows["mutant"]) + ".")
    commands = list(rows["command"])
    if rows["bench"]:
        commands.insert(0, f"./dev bench --only {question.number}")
    if rows["contention"]:
        commands.append("./dev bench --model")
    commands += [f"./dev models --only {model}" for model in rows["model"]]
    if rows["test"]:
        suites = sorted({test.split("/")[0].split(".")[0] for _, test in rows["test"]})
        commands.append(f"ctest --preset dev -R '{'|'.join(suites)}'")
    if commands:
        lines.append("- Commands: " + "; ".join(f"`{command}`" for command in commands) + ".")
    for missing in rows["open"]:
        lines.append(f"- Not answered yet: {missing}")
    return lines


def pictures(question):
    return [f"![{name}](plots/{name}.svg)" for name in question.rows["plot"]
            if (ANSWERS.parent / "plots" / f"{name}.svg").exists()]


def block_of(question, results):
    lines = figures_of(question, results) + models_of(question, results) + shown_by(question)
    drawn = pictures(question)
    if drawn:
        lines += ["", *drawn]
    return "\n".join(["", *lines, ""])


def run_conditions(run):
    machine = run["machine"]
    processes = f" in {run['processes']} processes" if run["processes"] > 1 else ""
    return (
        f"{machine['cpus']} CPUs, {machine['cpu']}; Linux {machine['kernel']}; {machine['kvm']}; "
        f"{machine['compiler']}; commit {run['commit'] or 'unknown'}; seed {run['seed']}; "
        f"a {run['effort']} run{processes}; {figures.others_text(run)}: "
        + ("the machine was quiet." if figures.quiet(run)
           else "the machine was **not quiet**, so compare ratios and not times."))


def conditions(results):
    own, *others = figures.runs(results)
    lines = ["", run_conditions(own)]
    for number, run in enumerate(others, 2):
        names = [f"`{comparison['name']}`" for comparison in results["comparisons"]
                 if figures.run_of(results, comparison) == run]
        lines += ["", f"Run {number}, of which come {', '.join(names)}: {run_conditions(run)}"]
    return "\n".join(lines + [""])


def filled(text, results, table):
    def fill(match):
        if match[3] is None:
            return match[1] + conditions(results) + match[4]
        question = table.get(int(match[3]))
        if question is None:
            raise figures.Wrong(f"docs/ANSWERS.md asks for question {match[3]}, which "
                                "tests/bench/questions.tsv does not have")
        return match[1] + block_of(question, results) + match[4]
    return BLOCK.sub(fill, text)


def main(arguments):
    check = "--check" in arguments
    arguments = [argument for argument in arguments if argument != "--check"]
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        before = ANSWERS.read_text(encoding="utf-8")
        after = filled(before, figures.load(arguments[0]), questions.load())
    except figures.Wrong as wrong:
        print(f"answers.py: {wrong}", file=sys.stderr)
        return 1
    if check and after != before:
        print("docs/ANSWERS.md does not have the figures of its results; run "
              f"python3 tests/bench/answers.py {arguments[0]}", file=sys.stderr)
        return 1
    if not check:
        ANSWERS.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
