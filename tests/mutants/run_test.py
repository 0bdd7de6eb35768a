#!/usr/bin/env python3
"""What run.py makes of a test that is skipped, that fails and that passes."""

import os
import pathlib
import tempfile
import unittest
from unittest import mock

import run

OK = "[       OK ] A.b (0 ms)\\n"
RAN = "[==========] 1 test from 1 test suite ran. (0 ms total)\\n"
SKIPPED = "a_test.cc:1: Skipped\\n{}\\n[  SKIPPED ] A.c (0 ms)\\n"


class JudgeTest(unittest.TestCase):
    def judge(self, without, with_mutant, code):
        """By a test binary that says these things, and ends with `code` if it has the mutant."""
        with tempfile.TemporaryDirectory() as build:
            binary = pathlib.Path(build) / "a_test"
            binary.write_text("#!/bin/sh\n"
                              f"[ -z \"$UNDERFOOT_MUTANT\" ] && {{ printf '{without}{RAN}'; exit 0; }}\n"
                              f"printf '{with_mutant}{RAN}'; exit {code}\n", encoding="utf-8")
            binary.chmod(0o755)
            return run.judge(run.Row(1, "m", "I1", "a_test", "A.*"), pathlib.Path(build))

    def test_a_test_that_fails_with_the_mutant_kills_it(self):
        self.assertEqual(self.judge(OK, OK, 1).result, run.KILLED)

    def test_a_test_that_passes_with_the_mutant_lets_it_survive(self):
        self.assertEqual(self.judge(OK, OK, 0).result, run.SURVIVED)

    def test_a_test_that_is_skipped_has_tried_nothing_and_its_reason_is_kept(self):
        verdict = self.judge(SKIPPED.format("no swap space"), OK, 1)
        self.assertEqual((verdict.result, verdict.how), (run.UNTRIED, "no swap space"))

    def test_beside_a_skipped_test_another_one_may_kill(self):
        self.assertEqual(self.judge(OK + SKIPPED.format("x"), OK, 1).result, run.KILLED)

    def test_beside_a_skipped_test_nothing_is_said_to_survive(self):
        self.assertEqual(self.judge(OK + SKIPPED.format("x"), OK, 0).result, run.UNTRIED)

    def test_in_ci_only_a_missing_kvm_excuses_what_was_not_tried(self):
        def verdict(why):
            return run.Verdict("m", "I1", run.UNTRIED, why)

        for there in (True, False):
            with mock.patch.object(os, "access", return_value=there):
                self.assertTrue(verdict("no swap space").fails_in_ci())
                self.assertEqual(verdict("no KVM at /dev/kvm").fails_in_ci(), there)


if __name__ == "__main__":
    unittest.main()
