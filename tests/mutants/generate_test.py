#!/usr/bin/env python3
"""What generate.py makes of diff files that fit the product, and of those that do not."""

import os
import pathlib
import tempfile
import unittest

import generate

PRODUCT = """\
int One() {
  Wait();
  return 1;
}

int Two() {
  Wait();
  return 2;
}
"""
RETURN = """\
@@ returns-nothing
-  return 1;
+  return UNDERFOOT_MUTANT("returns-nothing") ? 0 : 1;
 }
"""


class GenerateTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.here = self.root / "mutants"
        self.output = self.root / "mutated"
        self.write("mmu/a.cc", PRODUCT)
        self.write("vmm/b.h", "int b;\n")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def generate(self, diff, name="mmu/a.cc.diff"):
        """The generated text of mmu/a.cc."""
        self.write(f"mutants/{name}", diff)
        generate.generate(self.root, self.here, self.output)
        return (self.output / "mmu/a.cc").read_text(encoding="utf-8")

    def refuses(self, diff, *said, name="mmu/a.cc.diff"):
        with self.assertRaises(generate.Mismatch) as caught:
            self.generate(diff, name)
        for words in said:
            self.assertIn(words, str(caught.exception))

    def test_a_replaced_line_stands_behind_the_switch_and_the_rest_is_copied(self):
        self.assertEqual(self.generate(RETURN), generate.HEADER + PRODUCT.replace(
            "return 1;", 'return UNDERFOOT_MUTANT("returns-nothing") ? 0 : 1;'))
        self.assertEqual((self.output / "vmm/b.h").read_text(encoding="utf-8"), "int b;\n")

    def test_hunks_may_share_context_and_have_comments_and_empty_lines_of_context(self):
        added = '  if (UNDERFOOT_MUTANT("two-does-not-wait")) return 2;\n'
        both = f"# Of two functions.\n{RETURN}\n@@ two-does-not-wait\n }}\n\n int Two() {{\n+{added}   Wait();\n"
        text = self.generate(both)
        self.assertIn(f"int Two() {{\n{added}  Wait();\n", text)
        self.assertIn('"returns-nothing"', text)

    def test_an_original_that_matches_twice_is_refused(self):
        self.refuses('@@ waits-not\n-  Wait();\n+  if (!UNDERFOOT_MUTANT("waits-not")) Wait();\n',
                     "mutants/mmu/a.cc.diff:1", "'waits-not' matches 2 times in mmu/a.cc, not once")

    def test_an_original_that_does_not_match_is_refused(self):
        self.refuses(RETURN.replace("return 1;\n+", "return 3;\n+"),
                     "mutants/mmu/a.cc.diff:1", "'returns-nothing' matches 0 times in mmu/a.cc, not once")

    def test_a_hunk_that_is_an_insertion_without_context_is_refused(self):
        self.refuses('@@ m\n+  if (UNDERFOOT_MUTANT("m")) return;\n', "'m' matches 0 times in mmu/a.cc")

    def test_two_hunks_that_change_the_same_line_are_refused(self):
        self.refuses(RETURN + RETURN.replace("returns-nothing", "returns-zero"),
                     "'returns-zero' changes the same lines of mmu/a.cc as 'returns-nothing' does")

    def test_a_mutant_that_the_head_of_its_hunk_does_not_name_is_refused(self):
        self.refuses(RETURN.replace("@@ returns-nothing", "@@ another"),
                     "the head does not name the mutant returns-nothing")

    def test_a_head_that_names_a_mutant_which_no_hunk_contains_is_refused(self):
        self.refuses(RETURN.replace("@@ returns-nothing", "@@ returns-nothing, another"),
                     'contains UNDERFOOT_MUTANT("another")')

    def test_a_diff_file_of_a_product_file_that_does_not_exist_is_refused(self):
        self.refuses(RETURN, "mutants/mmu/c.cc.diff", "no product file mmu/c.cc", name="mmu/c.cc.diff")

    def test_a_line_that_is_no_line_of_a_hunk_is_refused(self):
        self.refuses(RETURN + "return 2;\n", "mutants/mmu/a.cc.diff:5")

    def test_a_mutant_without_a_row_and_a_row_without_a_mutant_are_complaints(self):
        self.write("mutants/mmu/a.cc.diff", RETURN)
        mutants = generate.mutants_in(self.here)
        row = generate.Row(7, "returns-nothing", "I1", "a_test", "A.*")
        self.assertEqual(generate.complaints([row], mutants), [])
        self.assertEqual(generate.complaints([], mutants),
                         ["mmu/a.cc.diff: no row of kill_table.tsv claims the mutant returns-nothing"])
        self.assertEqual(generate.complaints([row], {}),
                         ["kill_table.tsv:7: no diff file contains the mutant returns-nothing"])

    def test_a_row_with_too_few_fields_is_refused(self):
        self.write("rows.tsv", "# mutant and test\nreturns-nothing\tI1\ta_test\n")
        with self.assertRaises(generate.Mismatch) as caught:
            generate.rows_of(self.root / "rows.tsv")
        self.assertIn("rows.tsv:2: 3 fields, not 4", str(caught.exception))

    def test_a_file_whose_text_is_the_same_keeps_its_time(self):
        self.generate(RETURN)
        files = [self.output / "mmu/a.cc", self.output / "vmm/b.h"]
        for path in files:
            os.utime(path, ns=(1, 1))
        self.generate(RETURN.replace("? 0", "? 2"))
        self.assertNotEqual(files[0].stat().st_mtime_ns, 1)
        self.assertEqual(files[1].stat().st_mtime_ns, 1)

    def test_what_the_product_no_longer_has_leaves_the_copy(self):
        self.generate(RETURN)
        (self.root / "vmm/b.h").unlink()
        self.generate(RETURN)
        self.assertFalse((self.output / "vmm/b.h").exists())


class ProjectTest(unittest.TestCase):
    def test_every_hunk_fits_the_product_and_has_a_row(self):
        self.assertEqual(generate.complaints(generate.rows_of(generate.KILL_TABLE), generate.mutants_in()), [])
        with tempfile.TemporaryDirectory() as output:
            generate.generate(generate.ROOT, generate.HERE, pathlib.Path(output))


if __name__ == "__main__":
    unittest.main()
