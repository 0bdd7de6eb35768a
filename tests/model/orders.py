"""The memory orders of mmu/ and the models that catch their weakening: orders.tsv, checked.

Used by tests/mutants/run.py, for whose kill table these are the mutants that x86 hides.
"""

import dataclasses
import pathlib
import re

import models

TABLE = models.HERE / "orders.tsv"
SOURCES = models.ROOT / "mmu"
NAMES_THE_ORDERS = "ordering.h"
ORDER = re.compile(r"\bk(?:StoreLoad|Acquire|Release|AcqRel)\b")
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
DECLARED = re.compile(r'Order\("(\w+)", rl::mo_(\w+), rl::mo_(\w+)\)')


@dataclasses.dataclass(frozen=True)
class Place:
    line: int
    file: str
    text: str
    invariant: str
    model: str   # empty: no model catches it
    order: str
    reason: str


def places_of(path=TABLE):
    places = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 5:
            raise ValueError(f"{path}:{number}: {len(fields)} fields, not 5")
        file, text, invariant, killer, reason = (field.strip() for field in fields)
        model, _, order = killer.partition(" ")
        places.append(Place(number, file, text, invariant, "" if model == "-" else model, order,
                            reason))
    return places


def code_of(path):
    """The code without comments and strings, white space as one blank."""
    return " ".join(COMMENT_OR_STRING.sub("", path.read_text(encoding="utf-8")).split())


def complaints(places):
    """Orders without a row, rows without an order, killers that models.tsv does not have."""
    for path in sorted(SOURCES.rglob("*.h")) + sorted(SOURCES.rglob("*.cc")):
        if path.name == NAMES_THE_ORDERS:
            continue
        name = str(path.relative_to(models.ROOT))
        code = code_of(path)
        claimed = set()
        for place in (place for place in places if place.file == name):
            found = [match.start() for match in re.finditer(re.escape(place.text), code)]
            spans = {order.start() + start for start in found
                     for order in ORDER.finditer(place.text)}
            if not spans:
                yield f"{TABLE.name}:{place.line}: no order of {name} is at '{place.text}'"
            claimed |= spans
        for order in ORDER.finditer(code):
            if order.start() not in claimed:
                around = code[max(0, order.start() - 60):order.end() + 1]
                yield f"{name}: an order without a row in {TABLE.name}: ...{around}"
    known = {(row.model, row.switches) for row in models.rows_of(models.HERE / "models.tsv")
             if row.verdict == "caught"}
    for place in places:
        if not (models.ROOT / place.file).is_file():
            yield f"{TABLE.name}:{place.line}: there is no {place.file}"
        if place.model and (place.model, (place.order,)) not in known:
            yield (f"{TABLE.name}:{place.line}: models.tsv has no row that catches "
                   f"{place.model} {place.order}")


def weakening(place):
    """What the model makes of the order, as it declares it."""
    source = (models.HERE / f"{place.model}.cc").read_text(encoding="utf-8")
    for name, strong, weak in DECLARED.findall(source):
        if name == place.order:
            return f"{strong} -> {weak}"
    return "?"


def build(model):
    models.PROGRAMS.path(model)


def judge(model, order):
    """Whether the model catches the weakened order, and what it says."""
    row = models.Row(0, "relacy", model, (order,), "caught", "-", "full")
    result = models.check(row)
    return result.verdict == "caught", result.note
