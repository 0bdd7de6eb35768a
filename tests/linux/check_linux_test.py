#!/usr/bin/env python3
"""`./dev check-linux` with a machine that is played: what it repeats, what fails it, and what it leaves
unjudged."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPIES = "dev", "tests/arguments.sh", "tests/boot/stock.sh", "tests/linux/check_linux.sh"
STEPS = ("linux-anon linux-memfd linux-4-vcpus linux-thp linux-memory linux-panic console-ttyS0 console-hvc0").split()

# Plays the next word of `plan`, and a good run when there is none left. Writes down what it played.
MACHINE = r"""#!/usr/bin/env bash
word=$(head -1 plan)
sed -i 1d plan
[ "$3" = --timeout ] || exit 7
echo "${word:-good}" "$4" >>played
case $word in
  ''|good) echo "check_host.sh: good" ;;
  breaks) exit 125 ;;
  hangs) exit 124 ;;
  wrong) exit 1 ;;
  crashes) exit 139 ;;
  unmade) exit 126 ;;
esac
"""
FAKES = {
    "tests/boot/stock_kvm.sh": MACHINE,
    "tests/boot/debian.sh": "get_kernel() { kernel=kernel; }; get_qemu() { qemu=qemu/bin/qemu; firmware=(); }\n",
    "tests/linux/initrd.sh": "#!/bin/sh\n",
    "tests/linux/vmlinux.py": "#!/bin/sh\n",
    "bin/cmake": "#!/bin/sh\n",
    "bin/dpkg-query": "#!/bin/sh\necho installed\n",
    "bin/script": "#!/bin/sh\n",
}


class CheckLinux(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        for name in COPIES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        for name, text in FAKES.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")
            (self.folder / name).chmod(0o755)

    def run_with(self, plan="", seconds=None):
        """Leaves the exit code, the verdict of each step, and what the machine has played."""
        (self.folder / "plan").write_text("".join(f"{word}\n" for word in plan.split()), encoding="utf-8")
        (self.folder / "played").write_text("", encoding="utf-8")
        if seconds is not None:
            script = self.folder / "tests/linux/check_linux.sh"
            text = (ROOT / "tests/linux/check_linux.sh").read_text(encoding="utf-8")
            self.assertEqual(text.count("LINUX_SECONDS=590"), 1)
            script.write_text(text.replace("LINUX_SECONDS=590", f"LINUX_SECONDS={seconds}"), encoding="utf-8")
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        done = subprocess.run([self.folder / "dev", "check-linux"], capture_output=True, text=True,
                              env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, check=False)
        self.output = done.stdout + done.stderr
        self.code = done.returncode
        self.verdicts = {}
        for line in done.stdout.splitlines():
            words = line.split()
            if words and words[0] in STEPS:
                self.verdicts[words[0]] = "NOT RUN" if words[1] == "NOT" else words[1]
        played = (self.folder / "played").read_text(encoding="utf-8").split()
        self.played = played[::2]
        self.limits = [int(limit) for limit in played[1::2]]

    def expect(self, code, **verdicts):
        """Names the steps that have not passed."""
        expected = {step: "passed" for step in STEPS}
        expected.update({f"linux-{name}": verdict for name, verdict in verdicts.items()})
        self.assertEqual((self.code, self.verdicts), (code, expected), self.output)

    def test_passes_if_each_step_does(self):
        self.run_with()
        self.expect(0)
        self.assertEqual(self.limits, len(STEPS) * [190])

    def test_whatever_the_run_has_found_fails_at_once(self):
        for wrong in "wrong", "crashes", "unmade", "hangs":
            with self.subTest(wrong):
                self.run_with(wrong)
                self.expect(1, anon="FAILED")
                self.assertEqual(len(self.played), len(STEPS))

    def test_only_a_machine_that_breaks_down_is_started_again_and_the_summary_says_so(self):
        self.run_with("breaks breaks good")
        self.expect(0)
        self.assertRegex(self.output, "linux-anon     passed .*the machine broke down,the machine broke down")
        self.run_with("breaks wrong")
        self.expect(1, anon="FAILED")

    def test_a_machine_that_breaks_down_each_time_judges_nothing(self):
        self.run_with("good good breaks breaks breaks")
        self.expect(0, **{"4-vcpus": "UNJUDGED"})

    def test_the_first_two_steps_must_be_judged(self):
        self.run_with("breaks breaks breaks")
        self.expect(1, anon="UNJUDGED")
        self.assertIn("must be judged", self.output)
        self.run_with("good breaks breaks breaks")
        self.expect(1, memfd="UNJUDGED")

    def test_a_run_that_had_less_time_than_others_has_not_failed(self):
        self.run_with("hangs", seconds=100)
        self.expect(1, anon="NOT RUN")
        self.assertIn("must be judged", self.output)
        self.assertLessEqual(max(self.limits), 100)
        self.run_with("hangs", seconds=150)
        self.expect(1, anon="FAILED")

    def test_steps_without_time_are_not_run_and_named(self):
        self.run_with(seconds=5)
        self.assertEqual(self.code, 1, self.output)
        self.assertEqual(self.verdicts, {step: "NOT RUN" for step in STEPS}, self.output)
        self.assertEqual(self.played, [])


if __name__ == "__main__":
    unittest.main()
