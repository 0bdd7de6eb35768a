#!/usr/bin/env python3
"""Generates the copy of mmu/ and vmm/ that contains the mutants, for builds with -DUNDERFOOT_MUTANTS=ON.

A mutant is a way to break the product, which one of the tests must notice. The product's own files contain no
mutant. `tests/mutants/PATH.diff` has the mutants of the product file PATH, one hunk each:

    @@ begin-waits-for-grace-period
       UNDERFOOT_SYNC_POINT("begin-invalidated");
    +  if (UNDERFOOT_MUTANT("begin-waits-for-grace-period")) rcu::Synchronize();

The head names the mutants of the hunk, separated by commas. A line that begins with a blank is context, "-" a line
of the product and "+" a line that replaces it in the copy: there the product's code and the mutant's both stand
behind UNDERFOOT_MUTANT("name"), see mutant.h. A line that begins with "#" is a comment. An empty line is context,
but the empty lines at the end of a hunk are not part of it. A mutant may have several hunks.

The context and the "-" lines together must stand exactly once in the product file, so that a mutant cannot move or
vanish unnoticed when the product changes. Each mutant needs a row in kill_table.tsv, and each row a mutant.
"""

import argparse
import dataclasses
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KILL_TABLE = HERE / "kill_table.tsv"
FOLDERS = ("mmu", "vmm")
SWITCH = re.compile(r'UNDERFOOT_MUTANT\("([^"]+)"\)')
HEADER = '#include "tests/mutants/mutant.h"\n'


@dataclasses.dataclass(frozen=True)
class Row:
    line: int
    mutant: str
    invariant: str
    binary: str
    filter: str


@dataclasses.dataclass
class Hunk:
    line: int
    names: tuple
    lines: list  # pairs of a sign (' ', '-' or '+') and the text

    def original(self):
        return [text for sign, text in self.lines if sign != "+"]

    def edits(self, at):
        """(first line, line after the last, new lines) of each change, if the original begins at line `at`."""
        edits = []
        open_edit = False
        for sign, text in self.lines:
            if sign == " ":
                open_edit = False
                at += 1
                continue
            if not open_edit:
                edits.append([at, at, []])
                open_edit = True
            if sign == "-":
                at += 1
                edits[-1][1] = at
            else:
                edits[-1][2].append(text)
        return [tuple(edit) for edit in edits]


class Mismatch(Exception):
    """A diff file that cannot be applied to the product."""


def rows_of(path):
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t") if field.strip()]
        if len(fields) != 4:
            raise Mismatch(f"{path}:{number}: {len(fields)} fields, not 4: mutant, invariant, binary, filter")
        rows.append(Row(number, *fields))
    return rows


def hunks_of(path):
    hunks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#"):
            continue
        if line.startswith("@@"):
            names = tuple(name.strip() for name in line[2:].split(",") if name.strip())
            if not names:
                raise Mismatch(f"{path}:{number}: the head names no mutant")
            hunks.append(Hunk(number, names, []))
        elif line and line[0] not in " -+":
            raise Mismatch(f"{path}:{number}: a line begins with none of ' ', '-', '+', '#' and '@@'")
        elif hunks:
            hunks[-1].lines.append((line[:1] or " ", line[1:]))
        elif line:
            raise Mismatch(f"{path}:{number}: a line before the first hunk")
    for hunk in hunks:
        while hunk.lines and hunk.lines[-1] == (" ", ""):
            hunk.lines.pop()
    check_names(path, hunks)
    return hunks


def check_names(path, hunks):
    """Each mutant that the hunks contain is named by their heads, and the other way round."""
    switched = set()
    for hunk in hunks:
        found = set()
        for sign, text in hunk.lines:
            if sign == "+":
                found |= set(SWITCH.findall(text))
        for name in sorted(found - set(hunk.names)):
            raise Mismatch(f"{path}:{hunk.line}: the head does not name the mutant {name}, which the hunk contains")
        switched |= found
    for hunk in hunks:
        for name in hunk.names:
            if name not in switched:
                raise Mismatch(f'{path}:{hunk.line}: no line of the file contains UNDERFOOT_MUTANT("{name}")')


def mutated(path, product, text):
    """The text of the file `product` with the mutants of the diff file `path` in it."""
    lines = text.splitlines()
    edits = []
    for hunk in hunks_of(path):
        original = hunk.original()
        places = [at for at in range(len(lines) - len(original) + 1)
                  if lines[at:at + len(original)] == original] if original else []
        if len(places) != 1:
            raise Mismatch(f"{path}:{hunk.line}: the original of the hunk '{', '.join(hunk.names)}' matches "
                           f"{len(places)} times in {product}, not once")
        edits += [(*edit, hunk) for edit in hunk.edits(places[0])]
    edits.sort(key=lambda edit: edit[:2])
    for before, after in zip(edits, edits[1:]):
        if after[0] < before[1] or after[0] == before[0]:
            raise Mismatch(f"{path}:{after[3].line}: the hunk '{', '.join(after[3].names)}' changes the same lines "
                           f"of {product} as '{', '.join(before[3].names)}' does: make one hunk of them")
    for first, last, new, _ in reversed(edits):
        lines[first:last] = new
    return HEADER + "\n".join(lines) + "\n"


def diffs_in(here, folders=FOLDERS):
    return [path for folder in folders for path in sorted((here / folder).rglob("*.diff"))]


def mutants_in(here=HERE):
    """The names of all mutants, each with its diff file."""
    found = {}
    for path in diffs_in(here):
        for hunk in hunks_of(path):
            for name in hunk.names:
                found.setdefault(name, path.relative_to(here))
    return found


def complaints(rows, mutants, table=KILL_TABLE.name):
    """Mutants without a row and rows without a mutant."""
    claimed = {row.mutant for row in rows}
    return ([f"{path}: no row of {table} claims the mutant {name}"
             for name, path in mutants.items() if name not in claimed] +
            [f"{table}:{row.line}: no diff file contains the mutant {row.mutant}"
             for row in rows if row.mutant not in mutants])


def write_if_changed(path, content):
    """An unchanged file keeps its time, so that a build does not compile it again."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def generate(root, here, output):
    """Writes the copy, and removes what is no longer part of it."""
    wanted = set()
    diffs = {path.relative_to(here).with_suffix(""): path for path in diffs_in(here)}
    for folder in FOLDERS:
        for source in sorted((root / folder).rglob("*")):
            if not source.is_file():
                continue
            product = source.relative_to(root)
            content = source.read_bytes()
            if product in diffs:
                content = mutated(diffs.pop(product), product, content.decode()).encode()
            write_if_changed(output / product, content)
            wanted.add(output / product)
    for product, path in diffs.items():
        raise Mismatch(f"{path}: there is no product file {product}")
    for folder in FOLDERS:
        for old in (output / folder).rglob("*"):
            if old.is_file() and old not in wanted:
                old.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("output", type=pathlib.Path, help="the folder that gets the copy")
    options = parser.parse_args()
    try:
        wrong = complaints(rows_of(KILL_TABLE), mutants_in())
        generate(ROOT, HERE, options.output.resolve())
    except (Mismatch, OSError) as error:
        wrong = [str(error)]
    for complaint in wrong:
        print(f"generate.py: {complaint}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
