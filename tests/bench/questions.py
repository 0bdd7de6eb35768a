#!/usr/bin/env python3
"""questions.tsv: which benchmark, test, model and mutant answers which question.

  questions.py ROW    the names of the comparisons of a question, separated by commas
"""

import pathlib
import sys

import figures

HERE = pathlib.Path(__file__).resolve().parent
KINDS = ("title", "bench", "contention", "plot", "published", "test", "model", "mutant", "command", "open")


class Question:
    def __init__(self, number):
        self.number = number
        self.rows = {kind: [] for kind in KINDS}

    @property
    def title(self):
        return self.rows["title"][0]

    def comparisons(self, results):
        """Those of the results that answer it, as ordered by the table."""
        found = []
        for prefix in self.rows["bench"]:
            found += [comparison for comparison in results["comparisons"]
                      if begins(comparison["name"], prefix) and comparison not in found]
        return found


def begins(name, prefix):
    """Whether `name` begins with `prefix`, and its words with the words of `prefix`."""
    return name.startswith(prefix) and (prefix.endswith(".") or name[len(prefix):][:1] in ("", ".", "_"))


def load(path=HERE / "questions.tsv"):
    """Number -> Question."""
    questions = {}
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        number, kind, *name = line.split("\t")
        if not number.isdigit() or kind not in KINDS or len(name) != (2 if kind == "test" else 1):
            raise figures.Wrong(f"{path.name}:{place}: no row of the form that its head describes")
        question = questions.setdefault(int(number), Question(int(number)))
        question.rows[kind].append(tuple(name) if kind == "test" else name[0])
    for question in questions.values():
        if len(question.rows["title"]) != 1:
            raise figures.Wrong(f"{path.name}: question {question.number} needs one title")
    return questions


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        questions = load()
        question = questions.get(int(arguments[0])) if arguments[0].isdigit() else None
        if question is None:
            raise figures.Wrong(f"there is no question '{arguments[0]}'; docs/ANSWERS.md has "
                                f"1 to {max(questions)}")
        if not question.rows["bench"]:
            raise figures.Wrong(f"no benchmark answers question {question.number}; "
                                "docs/ANSWERS.md names what does")
        print(",".join(question.rows["bench"]))
    except figures.Wrong as wrong:
        print(f"./dev bench: {wrong}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
