#!/usr/bin/env python3
"""Moves many bytes through the disk of the guest `devices` while its memory is churned.

Usage: device_soak.py PROGRAM [--mib N] [--seconds S] [--seed N]

One run for each backing with one fault handler and with several: 4 vCPUs, a queue of the disk for each,
churn `mixed`. A run ends when its part of the bytes has gone through the queues, or after its part of
the seconds. The guest checks each sector that it reads, and the machine compares the file at the end.
Exit code 0: no byte was wrong, and all bytes were moved.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
# Of a guest under churn that ends, and checks all of its pages once more.
SECONDS_TO_END = 120


def ask(program, verb, socket):
    """The answer of the machine; None: it does not answer, yet or any more."""
    try:
        done = subprocess.run([program, verb, "--control", socket, "--json"], capture_output=True,
                              timeout=SECONDS_TO_END, check=False)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None


def bytes_of_disk(devices):
    return sum(queue["to_guest_bytes"] + queue["from_guest_bytes"]
               for device in devices["devices"] if device["name"] == "blk"
               for queue in device["queues"])


def run_once(program, folder, backing, handlers, wanted, seconds, seed):
    """Runs one machine. Returns the bytes that it has moved, at most the wanted ones, and whether the run
    was good."""
    socket = os.path.join(folder, "socket")
    command = [program, "run", "--guest", "devices", "--vcpus", "4", "--memory", "256M", "--churn", "mixed",
               "--backing", backing, "--fault-handlers", str(handlers), "--seed", str(seed),
               "--duration", "0", "--control", socket, "--json"]
    moved = 0
    began = time.monotonic()
    with open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as run:
            try:
                while run.poll() is None and time.monotonic() - began < seconds:
                    devices = ask(program, "devices", socket)
                    moved = moved if devices is None else bytes_of_disk(devices)
                    if moved >= wanted:
                        break
                    time.sleep(0.5)
                ask(program, "quit", socket)
                status = run.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                status = "none: it did not end"
            finally:
                run.kill()
        took = time.monotonic() - began
        good = status == 0
        print(f"{'good   ' if good else 'FAILED '} {moved / MIB:8.0f} MiB in {took:5.0f} s, seed {seed}: "
              f"{' '.join(command[1:-3])}", flush=True)
        if not good:
            log.seek(0)
            print(f"exit code {status}\n{log.read()}")
    return min(moved, wanted), good


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("program", help="build/underfoot")
    parser.add_argument("--mib", type=positive, default=10 << 10, help="to move in all (10 GiB)")
    parser.add_argument("--seconds", type=positive, default=7200, help="at most, in all (two hours)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("UNDERFOOT_SEED", "1")))
    options = parser.parse_args()
    runs = [(backing, handlers) for backing in ("anon", "memfd") for handlers in (1, 4)]
    moved = 0
    failed = 0
    for number, (backing, handlers) in enumerate(runs):
        with tempfile.TemporaryDirectory() as folder:
            more, good = run_once(options.program, folder, backing, handlers,
                                  options.mib * MIB // len(runs), options.seconds / len(runs),
                                  options.seed + number)
        moved += more
        failed += not good
    whole = moved >= options.mib * MIB // len(runs) * len(runs)
    verdict = (f"{failed} of {len(runs)} runs FAILED" if failed else
               "0 wrong bytes" if whole else f"0 wrong bytes, but not {options.mib} MiB: too slow")
    print(f"{moved / MIB:.0f} MiB through the guest's disk: {verdict}")
    sys.exit(0 if whole and not failed else 1)


if __name__ == "__main__":
    main()
