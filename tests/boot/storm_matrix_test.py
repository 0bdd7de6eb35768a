#!/usr/bin/env python3
"""What storm_matrix.py runs, and which runs it calls failed."""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import storm_matrix

GOOD = {
    "passed": True,
    "problems": [],
    "stats": {
        "churn": {"operations": {"discard": 3}},
        "guest": {"pages_checked": 5, "mismatches": 0},
        "audit": {"checks": 7, "unexplained": 0},
        "dirty_log": {"collections": 9, "missed": 0},
        "uffd": {"blocks": 1},
    },
}


def changed(group, name, value):
    summary = copy.deepcopy(GOOD)
    summary["stats"][group][name] = value
    return summary


class MatrixTest(unittest.TestCase):
    def test_it_has_each_combination_under_each_churn(self):
        runs = list(storm_matrix.runs())
        self.assertEqual(len(runs), 36)
        self.assertEqual(len({run[:3] for run in runs}), 18)
        self.assertEqual({run[3] for run in runs}, {2, 3, 4})
        self.assertEqual({run[4] for run in runs}, {"storm", "mixed"})

    def test_a_good_run_has_no_problem(self):
        self.assertEqual(storm_matrix.problems_of("2M", GOOD), [])

    def test_a_number_that_must_be_0_and_is_not_is_a_problem(self):
        for group, name in (("guest", "mismatches"), ("audit", "unexplained"), ("dirty_log", "missed")):
            self.assertEqual(len(storm_matrix.problems_of("off", changed(group, name, 1))), 1, name)

    def test_a_run_in_which_nothing_happened_is_a_problem(self):
        for group, name, nothing in (("churn", "operations", {}), ("guest", "pages_checked", 0),
                                     ("audit", "checks", 0), ("dirty_log", "collections", 0)):
            self.assertEqual(len(storm_matrix.problems_of("off", changed(group, name, nothing))), 1, name)

    def test_only_a_run_on_huge_pages_must_have_brought_in_a_block(self):
        none = changed("uffd", "blocks", 0)
        self.assertEqual(storm_matrix.problems_of("off", none), [])
        for huge in ("thp", "2M"):
            self.assertEqual(len(storm_matrix.problems_of(huge, none)), 1)

    def test_a_run_that_did_not_start_or_says_nothing_is_a_problem(self):
        self.assertEqual(storm_matrix.problems_of("off", {"passed": False, "problems": ["no page"]}),
                         ["no page"])
        self.assertEqual(storm_matrix.problems_of("off", {"passed": False, "problems": []}),
                         ["it did not pass"])

    def matrix(self, output):
        """The whole script, by a program that prints this."""
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "program"
            program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n", encoding="utf-8")
            program.chmod(0o755)
            return subprocess.run([sys.executable, storm_matrix.__file__, str(program)],
                                  capture_output=True, text=True, check=False)

    def test_it_fails_if_a_run_fails(self):
        self.assertEqual(self.matrix(json.dumps(GOOD)).returncode, 0)
        failed = self.matrix("no JSON")
        self.assertEqual(failed.returncode, 1)
        self.assertIn("36 runs, 36 failed", failed.stdout)


if __name__ == "__main__":
    unittest.main()
