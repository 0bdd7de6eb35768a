#!/usr/bin/env python3
"""What the scripts make of results, of damaged ones, and of the table of questions."""

import copy
import pathlib
import re
import tempfile
import unittest

import answers
import compare
import contention_model
import figures
import instructions
import merge
import plot
import questions

ROOT = questions.HERE.parent.parent


def variant(name, median, ratio=None, half=0.01, **more):
    spread = {"low": median * (1 - half), "median": median, "high": median * (1 + half)}
    made = {"name": name, "samples": 10, "median": median, "p99": 2 * median, "max": 3 * median,
            "round_medians": spread,
            "ratio": ratio and {"low": ratio * (1 - half), "median": ratio,
                                "high": ratio * (1 + half)},
            "discarded": 0}
    made.update(more)
    return made


def comparison(name, *variants, **more):
    made = {"name": name, "what": "an operation", "unit": "ns", "rounds": 5,
            "variants": list(variants)}
    made.update(more)
    return made


def results(*comparisons, **more):
    made = {"machine": {"cpu": "a CPU", "cpus": 2, "kernel": "6.1", "kvm": "kvm_amd",
                        "compiler": "g++", "load": 0.1},
            "commit": "abc", "effort": "full", "seed": 1, "others": 0.01,
            "comparisons": list(comparisons),
            "skipped": []}
    made.update(more)
    return made


def point(value, *variants):
    return comparison(f"g.c.{value}", *variants,
                      sweep={"curve": "g.c", "variable": "caches", "value": value})


class FiguresTest(unittest.TestCase):
    def test_a_figure_has_three_digits_and_a_unit(self):
        self.assertEqual(figures.text(0.294, "ns"), "0.29 ns")
        self.assertEqual(figures.text(12345, "ns"), "12.3 us")
        self.assertEqual(figures.text(4194304, "bytes"), "4.19 MB")
        self.assertEqual(figures.text(300, "retries"), "300 retries")

    def test_a_file_that_is_no_result_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.json"
            for text in ("{", "[]", "{}"):
                path.write_text(text, encoding="utf-8")
                with self.assertRaisesRegex(figures.Wrong, "a.json"):
                    figures.load(path)
            with self.assertRaisesRegex(figures.Wrong, "none.json"):
                figures.load(path.with_name("none.json"))

    def test_a_curve_has_its_points_in_order(self):
        found = figures.curves(results(point(16), comparison("g.other"), point(1)))
        self.assertEqual([p["sweep"]["value"] for p in found["g.c"]], [1, 16])


class CompareTest(unittest.TestCase):
    OLD = results(comparison("g.a", variant("first", 100, 1), variant("ours", 200, 2)))

    def rows(self, new):
        return list(compare.changes(self.OLD, new))

    def test_a_ratio_is_compared_and_a_slower_machine_moves_none(self):
        new = results(comparison("g.a", variant("first", 300, 1), variant("ours", 600, 2)))
        first, ours = self.rows(new)
        self.assertTrue(first[5])
        self.assertEqual((ours[1], ours[4], ours[5]), ("ratio", 0, False))

    def test_a_change_is_marked_only_beyond_both_spreads(self):
        near = results(comparison("g.a", variant("first", 100, 1), variant("ours", 203, 2.03)))
        far = results(comparison("g.a", variant("first", 100, 1), variant("ours", 300, 3)))
        self.assertFalse(self.rows(near)[1][5])
        self.assertTrue(self.rows(far)[1][5])
        self.assertIn("1 of 2 figures moved", compare.report(self.OLD, far)[-1])

    def test_what_one_run_does_not_have_is_left_out(self):
        self.assertEqual(self.rows(results(comparison("g.b", variant("first", 1, 1)))), [])
        disturbed = copy.deepcopy(self.OLD)
        disturbed["comparisons"][0]["variants"][1]["samples"] = 0
        self.assertEqual(len(self.rows(disturbed)), 1)

    def test_how_much_others_took_of_both_runs_comes_first(self):
        new = copy.deepcopy(self.OLD)
        new["others"] = 0.04
        self.assertIn("others took 1.0 % of the CPUs' time, now others took 4.0 %",
                      compare.report(self.OLD, new)[0])

    def test_other_conditions_are_named(self):
        new = copy.deepcopy(self.OLD)
        new["machine"]["kernel"] = "6.18"
        self.assertIn("Not the same conditions: kernel: 6.1, now 6.18",
                      compare.report(self.OLD, new))


class MergeTest(unittest.TestCase):
    OLD = results(comparison("g.a", variant("x", 1)), comparison("g.b", variant("x", 2)),
                  skipped=[{"name": "g.c", "reason": "it takes KVM"}])

    def new(self, *comparisons):
        made = results(*comparisons, commit="def")
        made["machine"] = {**made["machine"], "cpu": "another CPU"}
        made["others"] = 0.4
        return made

    def test_a_comparison_is_replaced_as_a_whole_and_names_its_run(self):
        made = merge.merged(self.OLD, self.new(comparison("g.b", variant("y", 3)),
                                               comparison("g.c", variant("x", 4))))
        self.assertEqual([(c["name"], c["variants"][0]["name"], figures.run_of(made, c)["commit"])
                          for c in made["comparisons"]],
                         [("g.a", "x", "abc"), ("g.b", "y", "def"), ("g.c", "x", "def")])
        self.assertEqual(made["machine"], self.OLD["machine"])
        self.assertEqual(made["skipped"], [])

    def test_what_was_merged_keeps_its_run_when_it_is_merged_again(self):
        first = merge.merged(self.OLD, self.new(comparison("g.b", variant("x", 3))))
        again = merge.merged(self.new(), first)
        self.assertEqual([figures.run_of(again, c)["commit"] for c in again["comparisons"]],
                         ["abc", "def"])
        self.assertNotIn("run", again["comparisons"][1])
        self.assertEqual(merge.merged(first, self.new()), first)

    def test_the_conditions_say_which_run_a_comparison_comes_from(self):
        made = merge.merged(self.OLD, self.new(comparison("g.b", variant("x", 3))))
        text = answers.conditions(made)
        self.assertIn("Run 2, of which come `g.b`: 2 CPUs, another CPU", text)
        self.assertIn("the machine was quiet", text)
        self.assertIn("not quiet", text)
        self.assertIn("(5 rounds, run 2)", answers.comparison_table(made["comparisons"][1], made)[0])
        self.assertIn("(5 rounds)", answers.comparison_table(made["comparisons"][0], made)[0])

    def test_the_conditions_say_how_many_processes_took_the_rounds(self):
        self.assertIn("a full run in 4 processes;", answers.conditions(results(processes=4)))
        self.assertIn("a full run; others took 1.0 %", answers.conditions(results()))

    def test_only_conditions_of_what_both_have_are_compared(self):
        new = self.new(comparison("g.b", variant("x", 3)))
        made = merge.merged(self.OLD, new)
        self.assertEqual(list(compare.differences(made, new)), [])
        self.assertEqual(list(compare.differences(self.OLD, new)), ["cpu: a CPU, now another CPU"])

    def test_costs_of_two_runs_make_no_picture_of_protections(self):
        both = results(comparison(plot.ACCESS), comparison(plot.WAIT))
        self.assertIn(plot.PROTECTIONS, plot.names(both))
        self.assertNotIn(plot.PROTECTIONS,
                         plot.names(merge.merged(both, self.new(comparison(plot.WAIT)))))


class ContentionModelTest(unittest.TestCase):
    @staticmethod
    def simulate(*programs):
        return contention_model.simulate(list(programs), events=4_000)

    def test_work_of_its_own_takes_as_long_beside_other_cores(self):
        for ns in self.simulate(*[[(100, None, 0)]] * 8):
            self.assertAlmostEqual(ns, 100, delta=8)

    def test_a_line_of_one_core_costs_it_nothing(self):
        self.assertAlmostEqual(self.simulate([(100, contention_model.Shared(50), 1)])[0], 100, delta=3)

    def test_a_busy_line_serves_one_core_after_the_other(self):
        line = contention_model.Shared(50)
        for ns in self.simulate(*[[(1, line, 1)]] * 8):
            self.assertAlmostEqual(ns, 8 * 50, delta=8)

    def test_a_mutex_that_is_nearly_always_free_is_held_up_by_nobody(self):
        lock = contention_model.Shared(5, hold=10)
        for ns in self.simulate(*[[(10_000, lock, 1)]] * 2):
            self.assertAlmostEqual(ns, 10_000, delta=600)

    def test_a_visit_in_a_share_of_the_operations_costs_that_share(self):
        lock = contention_model.Shared(0, hold=1_000)
        self.assertAlmostEqual(self.simulate([(100, lock, 0.1)])[0], 200, delta=30)

    def test_the_same_results_give_the_same_figures_and_a_slower_machine_larger_ones(self):
        made = figures.load(ROOT / "docs/plots/bench.json")
        slower = copy.deepcopy(made)
        for one in slower["comparisons"]:
            for other in one["variants"]:
                other["median"] *= 2
        for checks in (contention_model.walk_checks, contention_model.reader_checks):
            first = checks(contention_model.Times(made))
            self.assertEqual(checks(contention_model.Times(made)), first)
            for one, double in zip(first, checks(contention_model.Times(slower))):
                self.assertAlmostEqual(double.model / one.model, 2, delta=0.05)

    def test_what_a_model_lacks_is_named(self):
        with self.assertRaisesRegex(contention_model.Missing, "cache.access.two_threads"):
            contention_model.curves(results(), "readers")
        self.assertEqual(contention_model.all_curves(results()), {})


class PlotTest(unittest.TestCase):
    def test_curves_comparisons_and_protections_are_named(self):
        found = plot.names(results(point(1), point(16), comparison("g.a"),
                                   comparison(plot.ACCESS), comparison(plot.WAIT)))
        self.assertEqual(found, ["g.c", "g.a", plot.ACCESS, plot.WAIT, plot.PROTECTIONS])

    def test_a_scheme_is_where_both_of_its_costs_are(self):
        made = results(
            comparison(plot.ACCESS, variant("RCU", 10), variant("bare", 1),
                       variant("the same, among invalidations", 5)),
            comparison(plot.WAIT, variant("RCU", 30000), variant("pfn cache, busy reader", 300)))
        self.assertEqual([(label, access["median"], wait["median"])
                          for label, access, wait in plot.protections(made)],
                         [("RCU", 10, 30000), ("ours, among invalidations", 5, 300)])

    def test_the_pictures_are_drawn_and_the_same_again(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("python3-matplotlib is not installed; ./dev bench --plots installs it")
        made = results(point(1, variant("a", 10), variant("b", 0)),
                       point(4096, variant("a", 5000), variant("b", 0)),
                       comparison("g.a", variant("a", 1, 1)))
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for name in plot.names(made):
                svg, png = plot.draw(made, name, folder, ("svg", "png"))
                first = svg.read_bytes()
                self.assertIn(b"<svg", first)
                self.assertTrue(png.read_bytes().startswith(b"\x89PNG"))
                plot.draw(made, name, folder, ("svg",))
                self.assertEqual(svg.read_bytes(), first)


class AnswersTest(unittest.TestCase):
    TABLE = {7: questions.Question(7)}

    def setUp(self):
        rows = {kind: [] for kind in questions.KINDS}
        rows.update(title=["t"], bench=["g.c", "g.a"], open=["the rest"],
                    test=[("mmu_unit_test", "A.B")], model=["cache"], mutant=["m"])
        self.TABLE[7].rows = rows

    def filled(self, text, made):
        return answers.filled(text, made, self.TABLE)

    def test_a_block_is_filled_and_the_text_around_it_stays(self):
        made = results(point(1, variant("a", 10)), point(16, variant("a", 2000)),
                       comparison("g.a", variant("x|y", 20, 2, goal={
                           "of": "ratio", "at_most": 2.5, "met": True})))
        text = "prose\n<!-- figures 7 -->\nold\n<!-- end -->\nmore\n"
        first = self.filled(text, made)
        self.assertTrue(first.startswith("prose\n") and first.endswith("<!-- end -->\nmore\n"))
        self.assertIn("| a | 10.0 ns (20.0 ns) | 2.00 us (4.00 us) |", first)
        self.assertIn("2.50 times: met, 0.80 of it", first)
        self.assertIn("x\\|y", first)
        self.assertIn("Not answered yet: the rest", first)
        self.assertIn("./dev bench --only 7", first)
        self.assertNotIn("old", first)
        self.assertEqual(self.filled(first, made), first)

    def test_a_busy_machine_is_called_one(self):
        made = results(others=0.03)
        self.assertIn("not quiet", self.filled("<!-- conditions -->\n<!-- end -->\n", made))

    def test_a_run_that_did_not_measure_the_others_has_the_load_before_it(self):
        made = results()
        del made["others"]
        self.assertIn("the load was 0.1 when the run began: the machine was quiet",
                      answers.conditions(made))
        made["machine"]["load"] = 6
        self.assertIn("not quiet", answers.conditions(made))

    def test_a_question_that_there_is_not_is_named(self):
        with self.assertRaisesRegex(figures.Wrong, "question 8"):
            self.filled("<!-- figures 8 -->\n<!-- end -->\n", results())


class InstructionsTest(unittest.TestCase):
    def test_a_count_above_its_bound_is_said_so(self):
        self.assertEqual(instructions.verdict("check", 60, 60, "w")[1], True)
        line, kept = instructions.verdict("check", 61, 60, "w")
        self.assertFalse(kept)
        self.assertIn("EXCEEDED", line)

    def test_a_count_of_nothing_is_no_count(self):
        self.assertEqual(instructions.total_of("events: Ir\nsummary: 5000\n"), 5000)
        for text in ("events: Ir\n", "summary: 0\n"):
            with self.assertRaises(figures.Wrong):
                instructions.total_of(text)

    def test_a_profile_has_the_files_own_instructions(self):
        text = ("fl=(1) /a/mmu/x.cc\nfn=(1) f\n10 7\n+2 1\ncfi=(2) /a/mmu/y.h\ncfn=(2) g\n"
                "calls=1 20\n* 500\nfi=(2)\n21 3\nfe=(1)\n12 2\n")
        self.assertEqual(instructions.profile_of(text), [("mmu/x.cc", 10), ("mmu/y.h", 3)])

    def test_the_table_and_the_program_have_the_same_operations(self):
        source = (questions.HERE / "instructions.cc").read_text(encoding="utf-8")
        self.assertEqual(set(re.findall(r'\{"(\w+)", \w+\}', source)),
                         set(instructions.bounds()))
        self.assertIn(f"kOperations = {instructions.OPERATIONS};", source)


class QuestionsTest(unittest.TestCase):
    """The table names only what there is."""

    @classmethod
    def setUpClass(cls):
        cls.table = questions.load()
        cls.sources = "\n".join(path.read_text(encoding="utf-8")
                                for path in sorted((ROOT / "tests").glob("*/*.cc")))
        cls.cmake = "\n".join(path.read_text(encoding="utf-8")
                              for path in sorted((ROOT / "tests").glob("*/CMakeLists.txt")))

    def each(self, kind):
        for question in self.table.values():
            for name in question.rows[kind]:
                yield question.number, name

    def test_there_are_26_and_each_is_in_the_document(self):
        text = answers.ANSWERS.read_text(encoding="utf-8")
        self.assertEqual(sorted(self.table), list(range(1, 27)))
        for number in self.table:
            self.assertIn(f"<!-- figures {number} -->", text)

    def test_each_is_answered_by_something_or_open(self):
        for question in self.table.values():
            self.assertTrue(any(question.rows[kind] for kind in
                                ("bench", "test", "model", "command", "open")), question.number)

    def test_the_tests_exist(self):
        for number, (binary, test) in self.each("test"):
            suite, name = test.split(".")
            self.assertRegex(self.sources, rf"\({suite}, {name}\)", f"question {number}")
            self.assertIn(f"underfoot_test({binary} ", self.cmake, f"question {number}")

    def test_the_contention_models_exist(self):
        for number, model in self.each("contention"):
            self.assertIn(model, contention_model.MODELS, f"question {number}")

    def test_the_models_and_mutants_exist(self):
        models = (ROOT / "tests/model/models.tsv").read_text(encoding="utf-8")
        kills = (ROOT / "tests/mutants/kill_table.tsv").read_text(encoding="utf-8")
        for number, model in self.each("model"):
            self.assertRegex(models, rf"\t{model}\t", f"question {number}")
        for number, mutant in self.each("mutant"):
            self.assertRegex(kills, rf"(?m)^{mutant}\t", f"question {number}")

    def test_the_comparisons_exist_in_the_program(self):
        names = "\n".join(re.findall(r'"([A-Za-z0-9_.]+)"', "\n".join(
            path.read_text(encoding="utf-8") for path in questions.HERE.glob("*.cc"))))
        for number, prefix in self.each("bench"):
            self.assertIn(prefix, names, f"question {number}")

    def test_each_recorded_comparison_answers_a_question(self):
        made = figures.load(ROOT / "docs/plots/bench.json")
        answering = [each for question in self.table.values() for each in question.comparisons(made)]
        self.assertEqual([each["name"] for each in made["comparisons"] if each not in answering], [])

    def test_a_name_begins_with_whole_words(self):
        self.assertTrue(questions.begins("stage2.map_range", "stage2.map"))
        self.assertFalse(questions.begins("stage2.maps", "stage2.map"))
        self.assertTrue(questions.begins("fault.alone", "fault."))

    def test_what_documents_name_is_measured_and_answers_their_question(self):
        made = figures.load(ROOT / "docs/plots/bench.json")
        measured = [comparison["name"] for comparison in made["comparisons"]]
        documents = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
        documents += [path for folder in ("docs", "mmu", "vmm", "guest", "tests")
                      for kind in ("*.md", "*.h") for path in (ROOT / folder).rglob(kind)]
        cited = 0
        for path in documents:
            text = re.sub(r"\n\s*(//|#)?\s*", " ", path.read_text(encoding="utf-8"))
            for number in re.findall(r"\./dev bench --only (\d+)", text):
                self.assertIn(int(number), self.table, path)
            for filters in re.findall(r"\./dev bench [^`]*--filter=([\w.,]+)", text):
                for name in filters.split(","):
                    self.assertTrue(any(name in each for each in measured), f"{path}: {name}")
            for number, option, value in re.findall(
                    r"[Qq]uestion (\d+)\b[^`]{0,60}`\./dev bench --(only|filter)[ =]([\w.]+)`", text):
                cited += 1
                question = self.table[int(number)]
                if option == "only":
                    self.assertEqual(number, value, path)
                else:
                    self.assertTrue(any(value in each["name"] for each in question.comparisons(made)),
                                    f"{path}: question {number}, {value}")
        self.assertGreater(cited, 0)

    def test_the_text_around_the_figures_names_none(self):
        text = answers.ANSWERS.read_text(encoding="utf-8")
        text = re.sub(r"(?s)<!-- (figures \d+|conditions) -->.*?<!-- end -->", "", text)
        self.assertEqual(re.findall(r"\d[\d.,]*\s*(?:ns|us|ms|s|%|times)(?!\w).*", text), [])

    def test_the_committed_figures_are_those_of_the_document(self):
        made = figures.load(ROOT / "docs/plots/bench.json")
        text = answers.ANSWERS.read_text(encoding="utf-8")
        self.assertEqual(answers.filled(text, made, self.table), text,
                         "run python3 tests/bench/answers.py docs/plots/bench.json")


if __name__ == "__main__":
    unittest.main()
