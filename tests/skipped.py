#!/usr/bin/env python3
"""Says how many tests of a CTest run were skipped, and why.

Usage: skipped.py [--brief] JUNIT_FILE

With UNDERFOOT_REQUIRE_KVM=1 in the environment a skipped boot test is a failure: a machine that can
run guests must not pass by running none. Where /dev/kvm opens, the reason of a skip is another one: a
right that this user or a feature that this kernel lacks. That is a failure only for root with CI=true.
The rule of tests/support/skip.h.
"""

import argparse
import collections
import os
import re
import sys
import xml.etree.ElementTree

# gtest prints "file.cc:12: Skipped", then the reason on a line of its own.
REASON = re.compile(r": Skipped\n+([^\n]+)")


def reason_of(case):
    match = REASON.search(case.findtext("system-out") or "")
    return match.group(1).strip() if match else "no reason given"


def was_skipped(case):
    """Not so a test that CTest could not start: that one failed, though it has the same element."""
    skipped = case.find("skipped")
    return skipped is not None and skipped.get("message", "").startswith("SKIP_")


def skips_are_failures():
    if os.environ.get("UNDERFOOT_REQUIRE_KVM") != "1":
        return False
    has_everything = os.environ.get("CI") == "true" and os.geteuid() == 0
    return has_everything or not os.access("/dev/kvm", os.R_OK | os.W_OK)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--brief", action="store_true", help="one line, always exit 0")
    parser.add_argument("junit", help="the file that ctest --output-junit wrote")
    options = parser.parse_args()
    try:
        cases = list(xml.etree.ElementTree.parse(options.junit).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        sys.exit(f"skipped.py: cannot read {options.junit}: {error}")

    skipped = [case for case in cases if was_skipped(case)]
    line = f"{len(cases)} tests, {len(skipped)} skipped"
    reasons = collections.Counter(reason_of(case) for case in skipped)
    if options.brief:
        print(line + "".join(f"; {count}: {why}" for why, count in reasons.most_common()))
        return
    print(line)
    for why, count in reasons.most_common():
        print(f"  {count:4} {why}")
    boot = [case.get("name") for case in skipped if case.get("name").startswith("boot.")]
    if boot and skips_are_failures():
        sys.exit("skipped.py: UNDERFOOT_REQUIRE_KVM=1, but these were skipped: " + ", ".join(boot))


if __name__ == "__main__":
    main()
