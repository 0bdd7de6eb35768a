#!/usr/bin/env python3
"""A wrong command line of ./dev is refused in one line, with exit code 2, before anything is built."""

import os
import pathlib
import stat
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

WRONG = """
    build foo; check foo; check-host zz; check-user zz; check-linux bar; check-stock foo; check-stock --all foo
    asan zz; tsan zz; clang zz; tidy zz; matrix-stock xx; help foo; format foo; format --check foo; nonsense
    demo --bogus; demo --vcpus=2 --bogus; linux --bogus; linux --kernel-version 5
    soak --bogus; soak --operations; soak --operations 0; soak --operations -1; soak --threads 9; soak --threads 0
    soak --seed x; soak --devices --mib 0; soak --devices --mib -1; soak --devices --seconds 0
    soak --devices --bogus; soak --devices --mib
    torture --bogus; torture --events 0; torture --seconds 0; storm --duration 0s; storm --duration; storm --bogus
    bench --rounds=abc; bench --rounds=0; bench --json; bench --json=; bench peers extra; bench linux --only 1
    bench --bogus; bench --only; bench --only 99; bench --compare /nonexistent; bench --stock 5; bench --seed=x
    bench --model --quick; mutants --bogus; mutants --only; mutants --only nothing; instructions --bogus; instructions nothing
"""


class WrongCommandLine(unittest.TestCase):
    def test_is_refused_before_anything_is_built(self):
        with tempfile.TemporaryDirectory() as folder:
            for tool in ("cmake", "apt-get", "sudo"):
                fake = pathlib.Path(folder, tool)
                fake.write_text("#!/bin/sh\necho started >&2\nexit 77\n", encoding="utf-8")
                fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
            environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
            for line in filter(None, (line.strip() for line in WRONG.replace("\n", ";").split(";"))):
                with self.subTest(line):
                    done = subprocess.run([ROOT / "dev", *line.split()], capture_output=True, text=True,
                                          env=environment, stdin=subprocess.DEVNULL, check=False)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertEqual(done.stdout, "")
                    self.assertNotIn("started", done.stderr)


if __name__ == "__main__":
    unittest.main()
