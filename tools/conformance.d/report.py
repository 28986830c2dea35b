"""Adds up JUnit files: a table of suites, then every failure, and every test left out with the reason.

usage: report.py DIRECTORY       NAME.xml of each suite, and NAME.again.xml where what had failed was run again by itself
       report.py --failed FILE   what vitest needs to run the failed of FILE again: a pattern of their names, then their files"""

import collections
import pathlib
import re
import sys
import xml.etree.ElementTree

from not_applicable import reason


def cases(path):
    """Of each test its file, its name, what went wrong (an element, or None) and whether it was skipped (likewise)."""
    seen = set()
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        file, name = case.get("classname", ""), case.get("name", "")
        bad = next((part for part in case if part.tag in ("failure", "error")), None)
        if bad is not None and (file, name) in seen:  # its tear-down too: no test of its own
            continue
        if bad is not None:
            seen.add((file, name))
        yield file, name, bad, case.find("skipped")


def print_failed(path):
    suite = pathlib.Path(path).stem
    failed = [(file, name) for file, name, bad, _ in cases(path) if bad is not None and not reason(suite, f"{file}::{name}")]
    if failed:
        print("^(" + "|".join(re.escape(name.replace(" > ", " ")) for _, name in failed) + ")$")
        print(*sorted({file for file, _ in failed}), sep="\n")


def print_report(directory):
    rows, failures, skips = [], [], collections.defaultdict(list)
    for path in sorted(pathlib.Path(directory).glob("*.xml")):
        if path.stem.endswith(".again"):
            continue
        suite, count, again = path.stem, collections.Counter(), path.with_suffix(".again.xml")
        alone = {(file, name) for file, name, bad, skipped in cases(again) if bad is None and skipped is None} if again.exists() else ()
        for file, name, bad, skipped in cases(path):
            test = f"{file}::{name}"
            why = reason(suite, test) if bad is not None else None
            if bad is not None and not why:
                count["failed"] += 1
                count["alone"] += (file, name) in alone
                message = (bad.get("message") or bad.text or "").strip().split("\n")[0][:200]
                failures.append((suite, test, "passed alone" if (file, name) in alone else "failed alone too", message))
            elif bad is not None or skipped is not None:
                count["skipped"] += 1
                skips[(suite, why or skipped.get("message") or "skipped by the suite itself")].append(test)
            else:
                count["passed"] += 1
        rows.append((suite, count["passed"], count["failed"], count["alone"], count["skipped"]))

    print(f"{'suite':<36}{'passed':>8}{'failed':>8}{'of them passed alone':>22}{'skipped':>9}")
    for suite, passed, failed, alone, skipped in rows:
        print(f"{suite:<36}{passed:>8}{failed:>8}{alone:>22}{skipped:>9}")
    for suite, test, then, message in failures:
        print(f"\nFAILED {suite} {test} ({then})\n    {message}")
    if skips:
        print("\nLeft out:")
    for (suite, why), tests in skips.items():
        print(f"  {suite}: {why}")
        for test in sorted(set(tests)):
            print(f"    {test}")
    passed, failed, alone, skipped = (sum(column) for column in list(zip(*rows))[1:]) if rows else (0, 0, 0, 0)
    print(f"\n{passed} passed, {failed} failed ({alone} of them passed alone), {skipped} skipped")
    return 1 if failed or not passed else 0


if sys.argv[1] == "--failed":
    print_failed(sys.argv[2])
else:
    sys.exit(print_report(sys.argv[1]))
