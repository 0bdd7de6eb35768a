#!/usr/bin/env python3
"""Succeeds if some tests of a CTest run failed, and only because LeakSanitizer itself broke down.

Usage: leak_check_broke.py JUNIT_FILE

At the end of a program LeakSanitizer stops its threads from another process and reads their memory.
About once in two thousand programs it is killed by a SIGSEGV while it does so. Such a program has
passed its tests and its leaks are unknown: it has to run once more.
"""

import sys
import xml.etree.ElementTree

BROKE = "LeakSanitizer has encountered a fatal error"


def only_leak_check_broke(case):
    output = case.findtext("system-out") or ""
    return BROKE in output and "[  PASSED  ]" in output and "[  FAILED  ]" not in output


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        cases = list(xml.etree.ElementTree.parse(sys.argv[1]).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        sys.exit(f"leak_check_broke.py: cannot read {sys.argv[1]}: {error}")
    failed = [case for case in cases if case.find("failure") is not None]
    if not failed or not all(only_leak_check_broke(case) for case in failed):
        sys.exit(1)
    print("LeakSanitizer broke down in " + ", ".join(case.get("name") for case in failed))


if __name__ == "__main__":
    main()
