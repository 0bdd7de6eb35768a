#!/usr/bin/env python3
"""A MODEL of 8 to 192 cores, for questions that a machine with two CPUs cannot measure.

  contention_model.py RESULTS.json     prints its tables

It simulates discrete events. A core repeats an operation, which consists of work of its own and of
visits to things that cores share:

  line    a cache line that is written. It serves one core after the other, in the order of arrival. A
          visit costs nothing more if the same core was the last one, and a hand-over otherwise.
  mutex   is held for some time. It goes from one core to the next in the order of arrival, and each
          time costs a hand-over of its own.

The times are those of the results, measured with one and two CPUs; nothing is fitted to more cores.
What is assumed:

  1. Work of its own takes as long as with one core; each time is drawn between 0.5 and 1.5 of it.
  2. A hand-over takes as long between any two cores. Two bounds of it are measured: for a line that two
     cores write all the time (a quarter of an access under an rwlock that they share: two locked
     instructions each), and for one that is handed over once (half of an invalidation that takes a line
     from its reader and gets an answer). Larger machines have longer ways, so a lock is worse there.
  3. Memory, caches and the interconnect have no limit of bandwidth; no core is preempted.
  4. A mutex is fair and never sleeps, and the memory that it protects costs nothing to move.

2, 3 and 4 flatter whatever shares lines, so they flatter the locks more than ours. The rows marked
"prediction" show by how much the model is off where it can be checked.
"""

import heapq
import random
import sys
from collections import namedtuple

import figures

CORES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192)
SHOWN = (1, 2, 8, 16, 48, 96, 192)  # in the tables
EVENTS = 40_000  # of a point of a curve
LEAST_STEPS = 8  # of each core
SEED = 1

# How ours is made: the shards of mmu/base/stats.h, and for each table that comes and goes the locked
# instructions on the lock of the free tables and on those of the retired ones.
SHARDS = 8
PAGES_OF_A_TABLE = 512
POOL_VISITS = 4
RETIRED_VISITS = 6

# (label, {cores: figure}), from left to right.
Line = namedtuple("Line", "label points")
Published = namedtuple("Published", "label cores figure")
Curve = namedtuple("Curve", "name what unit lines published")
Check = namedtuple("Check", "what cores measured model role")


class Missing(Exception):
    """A comparison that the model takes its times from was not measured."""


# --- the simulation

class Shared:
    """A cache line, or a mutex that is held for `hold` ns."""

    def __init__(self, handover, hold=0):
        self.handover = handover
        self.hold = hold
        self.free_at = 0.0
        self.last = None

    def visit(self, now, core):
        """When the visit of the core ends."""
        start = max(now, self.free_at)
        cost = 0 if self.last in (core, None) else self.handover
        self.last = core
        self.free_at = start + cost + self.hold
        return self.free_at


def simulate(programs, events=EVENTS, seed=SEED):
    """Mean ns of an operation of each core. A program is a list of steps: work in ns, the Shared that is
    visited then (or None), and in which share of the operations it is. The first quarter of the events
    does not count."""
    draw = random.Random(seed).random
    cores = len(programs)
    place = [0] * cores
    first = [None] * cores  # when the core had its first step that counts
    last = [0.0] * cores
    steps = [0] * cores
    behind = cores
    # When each core arrives at what it visits. Popped in the order of time, so a visit finds only those
    # before it that have arrived earlier.
    heap = [(programs[core][0][0] * (0.5 + draw()), core) for core in range(cores)]
    heapq.heapify(heap)
    count = 0
    while count < events or behind > 0:
        now, core = heap[0]
        count += 1
        program = programs[core]
        _, shared, share = program[place[core]]
        if shared is not None and (share == 1 or draw() < share):
            now = shared.visit(now, core)
        place[core] = (place[core] + 1) % len(program)
        if 4 * count >= events:
            if first[core] is None:
                first[core] = now
            else:
                steps[core] += 1
                last[core] = now
                behind -= steps[core] == LEAST_STEPS
        heapq.heapreplace(heap, (now + program[place[core]][0] * (0.5 + draw()), core))
    return [(last[core] - first[core]) / steps[core] * len(programs[core]) for core in range(cores)]


def throughput(programs):
    """Operations for each ns, of all cores together."""
    return sum(1 / ns for ns in simulate(programs))


# --- the times

class Times:
    """What the model takes from the results."""

    def __init__(self, results):
        self.results = results
        self.names = set()
        two = "cache.access.two_threads"
        self.busy_line = self.median(two, "spinning rwlock") / 4
        self.single_line = self.median("cache.invalidate_and_wait",
                                       "slot with exchange, nothing else") / 2
        self.locked_page = self.walk("exclusive, under a mutex, alone", "pages")
        self.mutex = max(self.walk("exclusive, under a mutex, two threads", "pages") / 2
                         - self.locked_page, 0)
        self.bounds = (("a busy line", self.busy_line), ("a single hand-over", self.single_line))

    def median(self, comparison, variant):
        self.names.add(comparison)
        for one in self.results["comparisons"]:
            if one["name"] == comparison:
                for other in one["variants"]:
                    if other["name"] == variant and figures.measured(other):
                        return other["median"]
        raise Missing(f"the results have no '{comparison}: {variant}'")

    def walk(self, variant, way):
        return self.median(f"stage2.two_threads.{way}", variant)

    def walked_cache(self):
        """The time that the walk of a list takes for a cache that nobody reads."""
        of = "list, precheck under read lock"
        return (self.median("invalidation.nothing.256_caches", of)
                - self.median("invalidation.nothing.16_caches", of)) / 240


# --- question 8: map and unmap, each core in a range of its own

def stage2_programs(cores, page, handover, by_pages, shards=SHARDS):
    """Ours, an operation being a page or a table. Each page that is mapped by itself counts twice."""
    pages = 1 if by_pages else PAGES_OF_A_TABLE
    tables = pages / PAGES_OF_A_TABLE
    pool, retired = Shared(handover), Shared(handover)
    counters = [[Shared(handover) for _ in range(4)] for _ in range(min(shards, cores))]
    programs = []
    for core in range(cores):
        leaves, maps, unmaps, of_tables = counters[core % len(counters)]
        work = ([(page / 2, leaves, 1), (page / 2, maps, 1)] if by_pages
                else [(page * pages, maps, 1)])
        programs.append(work + [(0, shared, tables) for shared in (
            [pool] * POOL_VISITS + [retired] * RETIRED_VISITS + [of_tables, leaves, unmaps, of_tables])])
    return programs, pages


def locked_programs(cores, page, handover, by_pages):
    """A table is mapped under the mutex in one call, and unmapped in another one."""
    pages = 1 if by_pages else PAGES_OF_A_TABLE / 2
    lock = Shared(handover, hold=page * pages)
    return [[(0, lock, 1)] for _ in range(cores)], pages


def walk_line(label, make, *arguments):
    """Pages/us of all cores together."""
    points = {}
    for cores in CORES:
        programs, pages = make(cores, *arguments)
        points[cores] = throughput(programs) * pages * 1e3
    return Line(label, points)


def parallel_walks(times):
    curves = []
    for way, by_pages in (("pages", True), ("ranges", False)):
        lines = []
        ours = times.walk("stage-2, alone", way)
        exclusive = times.walk("exclusive, under a mutex, alone", way)
        for name, handover in times.bounds:
            lines.append(walk_line(f"stage-2; {name}", stage2_programs, ours, handover, by_pages))
        lines.append(walk_line("stage-2 with counters of each core; a single hand-over",
                               stage2_programs, ours, times.single_line, by_pages, max(CORES)))
        lines.append(walk_line("exclusive, under a mutex", locked_programs, exclusive, times.mutex,
                               by_pages))
        curves.append(Curve(
            f"model.parallel_walks.{way}",
            "map and unmap of pages, "
            + ("one by one" if by_pages else "a table of 512 at once")
            + ", each core in a range of its own: pages/us of all cores together",
            "pages/us", lines, []))
    speed_up = [Line(line.label, {cores: figure / line.points[1]
                                  for cores, figure in line.points.items()})
                for line in curves[0].lines]
    curves.append(Curve(
        "model.parallel_walks.speed_up", "the speed-up of the first of these, over one core",
        "times", speed_up, [Published("PUBLISHED, not ours: parallel faults of arm64", 48, 5.2)]))
    return curves


# --- questions 1 and 14: readers beside an invalidator that looks at the caches without a pause

def reader_programs(readers, access, walked, handover, own_locks):
    """The last program is the invalidator's: no invalidation overlaps any cache, and the precheck takes
    the lock of each cache for reading."""
    locks = [Shared(handover) for _ in range(readers if own_locks else 1)]
    programs = [[(access / 2, locks[core % len(locks)], 1)] * 2 for core in range(readers)]
    programs.append([step for lock in locks for step in [(walked / 2, lock, 1)] * 2])
    return programs


def readers(times):
    access = times.median("cache.access.alone", "rwlock of each reader")
    ours = times.median("cache.access.alone", "pfn cache: check, load, leave")
    begin = times.median("invalidation.nothing.256_caches", "ours, between two caches")
    walked = times.walked_cache()
    read, walk = [], []
    for own in (False, True):
        for name, handover in times.bounds:
            accesses, walks = {}, {}
            for cores in CORES[1:]:
                *each, walks[cores] = simulate(
                    reader_programs(cores - 1, access, walked, handover, own))
                accesses[cores] = sum(each) / len(each)
            scheme = "an rwlock in each reader's cache" if own else "one cache with an rwlock"
            read.append(Line(f"{scheme}; {name}", accesses))
            walk.append(Line(f"{scheme}; {name}", walks))
    flat = CORES[1:]
    read.append(Line("ours", {cores: ours for cores in flat}))
    walk.append(Line("ours", {cores: begin for cores in flat}))
    return [
        Curve("model.readers.access", "an access, by all cores but one; the last core invalidates what "
              "no cache overlaps, without a pause, with a precheck under the read lock", "ns", read, []),
        Curve("model.readers.invalidation", "an invalidation, meanwhile", "ns", walk, [])]


# --- what one and two cores show

FITTED = "a time that the model takes"
PREDICTED = "prediction"


def walk_checks(times):
    found = []
    for way, by_pages in (("pages", True), ("ranges", False)):
        for scheme, make, handover in (
                ("stage-2", stage2_programs, times.busy_line),
                ("exclusive, under a mutex", locked_programs, times.mutex)):
            page = times.walk(f"{scheme}, alone", way)
            for cores, suffix in ((1, "alone"), (2, "two threads")):
                programs, pages = make(cores, page, handover, by_pages)
                fitted = cores == 1 or (by_pages and make is locked_programs)
                found.append(Check(f"{scheme}, {way}: a page", cores,
                                   times.walk(f"{scheme}, {suffix}", way),
                                   sum(simulate(programs)) / cores / pages,
                                   FITTED if fitted else PREDICTED))
    return found


def reader_checks(times):
    found = []
    access = times.median("cache.access.alone", "rwlock of each reader")
    for scheme, own in (("spinning rwlock", False), ("rwlock of each reader", True)):
        programs = reader_programs(2, access, 0, times.busy_line, own)[:2]
        found.append(Check(f"two readers, {scheme}: an access", 2,
                           times.median("cache.access.two_threads", scheme),
                           sum(simulate(programs)) / 2, PREDICTED if own else FITTED))
    quiet = "pfn cache: check, load, leave"
    found.append(Check("two readers, ours: an access", 2,
                       times.median("cache.access.two_threads", quiet),
                       times.median("cache.access.alone", quiet), PREDICTED))
    # One reader beside walks over 16 caches, of which it reads the first.
    lock, others = Shared(times.busy_line), times.walked_cache()
    shared = "invalidation.reader_share_of_a_list"
    idle = times.median(shared, "beside an idle CPU")
    walk = [(others / 2, lock, 1)] * 2 + [(others / 2, None, 0)] * 30
    found.append(Check("one reader beside walks with a precheck over 16 caches: an access", 2,
                       times.median(shared, "precheck under read lock"),
                       simulate([[(idle / 2, lock, 1)] * 2, walk])[0], PREDICTED))
    return found


# --- the output

MODELS = {"parallel_walks": (parallel_walks, walk_checks), "readers": (readers, reader_checks)}
_computed = []  # (results, model, curves): a model takes seconds


def curves(results, model):
    if model not in MODELS:
        raise figures.Wrong(f"there is no model '{model}'; there are {', '.join(MODELS)}")
    for known, name, made in _computed:
        if known is results and name == model:
            return made
    made = MODELS[model][0](Times(results))
    _computed.append((results, model, made))
    return made


def all_curves(results):
    """By name; those whose times were measured."""
    found = []
    for model in MODELS:
        try:
            found += curves(results, model)
        except Missing:
            continue
    return {curve.name: curve for curve in found}


def curve_table(curve):
    lines = [f"**{curve.name}** (MODEL, not measured) over cores: {curve.what}.", "",
             "| | " + " | ".join(f"{cores}" for cores in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for line in curve.lines:
        lines.append(f"| {line.label} | " + " | ".join(
            figures.text(line.points[cores], curve.unit) if cores in line.points else "-"
            for cores in SHOWN) + " |")
    for published in curve.published:
        lines.append(f"| {published.label} | " + " | ".join(
            figures.text(published.figure, curve.unit) if cores == published.cores else "-"
            for cores in SHOWN) + " |")
    return lines + [""]


def check_table(checks):
    lines = ["What the model says of one and two cores, beside what was measured:", "",
             "| operation | cores | measured | model | model / measured | |", "|---|---|---|---|---|---|"]
    for check in checks:
        lines.append(f"| {check.what} | {check.cores} | {figures.text(check.measured, 'ns')} | "
                     f"{figures.text(check.model, 'ns')} | "
                     f"{figures.three_digits(check.model / check.measured)} | {check.role} |")
    return lines + [""]


def tables(results, model):
    made = curves(results, model)
    times = Times(results)
    checks = MODELS[model][1](times)
    lines = ["**MODEL.** The tables named `model.` are computed, not measured. A hand-over of a line costs "
             f"{figures.text(times.busy_line, 'ns')} (a busy line) or "
             f"{figures.text(times.single_line, 'ns')} (a single hand-over), one of the mutex "
             f"{figures.text(times.mutex, 'ns')}. "
             "[contention_model.py](../tests/bench/contention_model.py) states what is assumed.", ""]
    for curve in made:
        lines += curve_table(curve)
    return lines + check_table(checks)


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        results = figures.load(arguments[0])
        print(__doc__.split("\n\n", 2)[2])
        for model in MODELS:
            print("\n".join(tables(results, model)))
    except (figures.Wrong, Missing) as wrong:
        print(f"contention_model.py: {arguments[0]}: {wrong}; run ./dev bench --filter=cache.,"
              "invalidation.,stage2.two_threads", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
