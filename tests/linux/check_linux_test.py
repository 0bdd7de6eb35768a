#!/usr/bin/env python3
"""`./dev check-linux` with a machine that is played: what it repeats, what fails it, and what it leaves unjudged."""

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
case "$*" in *control.sh*) what=control ;; *) what=run ;; esac
echo "$what ${word:-good} $2" >>played
dies() { printf '%s\r\n' 'FAILED:' "  vCPU 0: KVM_EXIT_SHUTDOWN (triple fault) at rip 0x10" "$@" '' 'machine  vm-1'; exit 1; }
case $word in
  ''|good) echo "check_host.sh: good" ;;
  breaks) exit 125 ;;
  hangs) exit 124 ;;
  dies) dies ;;
  panics) printf '%s\n' "FAILED:" "  the guest's kernel has panicked; its output says why" ""; exit 1 ;;
  dies+audit) dies "  the audit found 1 unexplained differences in 9 checks" ;;
  panics+content)
    printf '%s\n' 'FAILED:' "  the guest's kernel has panicked; its output says why" '' "check_host.sh: the tree is not as it was"
    exit 1 ;;
  content) echo "check_host.sh: the tree is not as it was" >&2; exit 1 ;;
  guest) echo "[vcpu 0] guest: FAILED: round 1: the copy"; dies ;;
  crashes) echo "dies by KVM_EXIT_SHUTDOWN"; exit 139 ;;
  unmade) exit 126 ;;
  peer-dies) exit 3 ;;
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
            text = script.read_text(encoding="utf-8")
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
        self.played = [line.split()[:2] for line in
                       (self.folder / "played").read_text(encoding="utf-8").splitlines()]

    def expect(self, code, **verdicts):
        """`anon` and `memfd`, if they have not passed; each other step has passed."""
        expected = {step: "passed" for step in STEPS}
        expected.update({f"linux-{name}": verdict for name, verdict in verdicts.items()})
        self.assertEqual((self.code, self.verdicts), (code, expected), self.output)

    def test_passes_if_each_step_does(self):
        self.run_with()
        self.expect(0)
        self.assertEqual(len(self.played), len(STEPS))

    def test_fails_at_once_by_whatever_is_not_the_death_of_the_guest(self):
        for wrong in "content", "panics+content", "guest", "dies+audit", "crashes", "unmade":
            with self.subTest(wrong):
                self.run_with(wrong)
                self.expect(1, anon="FAILED")
                self.assertEqual(len(self.played), len(STEPS))

    def test_fails_if_a_later_attempt_is_wrong(self):
        self.run_with("good dies content")
        self.expect(1, memfd="FAILED")

    def test_passes_if_a_later_attempt_does_and_says_what_was_before(self):
        for first in "dies", "panics", "hangs", "breaks":
            with self.subTest(first):
                self.run_with(f"{first} {first} good")
                self.expect(0)
                self.assertRegex(self.output, "linux-anon     passed .*(died|not done|broke down)")

    def test_a_guest_that_dies_each_time_has_failed_if_those_of_qemu_live(self):
        self.run_with("dies panics dies panics dies good")
        self.expect(1, anon="FAILED")
        self.assertEqual(self.played[5], ["control", "good"])

    def test_a_guest_that_dies_each_time_has_failed_if_no_control_can_be_made(self):
        self.run_with("dies dies dies dies dies unmade")
        self.expect(1, anon="FAILED")

    def test_a_guest_that_dies_each_time_is_not_judged_if_one_of_qemu_dies_too(self):
        for control in "peer-dies", "breaks":
            with self.subTest(control):
                self.run_with(f"dies breaks dies panics dies dies {control}")
                self.expect(3, anon="UNJUDGED")
                self.assertEqual(self.played[6], ["control", control])

    def test_a_control_that_died_counts_for_the_later_steps_on_such_a_machine(self):
        deaths = 5 * "dies "
        self.run_with(f"{deaths} peer-dies {deaths} good {deaths} good")
        self.expect(1, anon="UNJUDGED", memfd="UNJUDGED", **{"thp": "FAILED"})
        self.assertEqual(self.played.count(["control", "peer-dies"]), 1)
        self.assertEqual(self.played.count(["control", "good"]), 1)

    def test_a_machine_that_breaks_down_each_time_judges_nothing(self):
        self.run_with("breaks breaks breaks")
        self.expect(3, anon="UNJUDGED")
        self.assertNotIn("control", dict(self.played))

    def test_only_the_first_two_steps_must_be_judged(self):
        self.run_with("good good breaks breaks breaks")
        self.expect(0, **{"4-vcpus": "UNJUDGED"})

    def test_a_failure_counts_more_than_what_is_not_judged(self):
        self.run_with("breaks breaks breaks content")
        self.expect(1, anon="UNJUDGED", memfd="FAILED")

    def test_steps_without_time_are_not_run_and_named(self):
        self.run_with(seconds=5)
        self.assertEqual(self.code, 1, self.output)
        self.assertEqual(self.verdicts, {step: "NOT RUN" for step in STEPS}, self.output)
        self.assertEqual(self.played, [])

    def test_a_death_without_time_for_a_control_is_no_verdict(self):
        # linux-anon has 320 s less than the whole, which is enough for one attempt.
        self.run_with("dies", seconds=310)
        self.expect(1, anon="NOT RUN")


if __name__ == "__main__":
    unittest.main()
