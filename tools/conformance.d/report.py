"""Adds up JUnit files: a table of suites, then every failure, and every test left out with the reason."""

import collections
import pathlib
import sys
import xml.etree.ElementTree

from not_applicable import reason

rows, failures, skips = [], [], collections.defaultdict(list)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.xml")):
    suite, count, failed = path.stem, collections.Counter(), set()
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        test = f"{case.get('classname', '')}::{case.get('name', '')}"
        bad = [*case.findall("failure"), *case.findall("error")]
        skipped = case.find("skipped")
        why = reason(suite, test) if bad else None
        if bad and test in failed:  # its tear-down too: no test of its own
            continue
        if bad and not why:
            failed.add(test)
            count["failed"] += 1
            failures.append((suite, test, (bad[0].get("message") or bad[0].text or "").strip().split("\n")[0][:200]))
        elif bad or skipped is not None:
            count["skipped"] += 1
            skips[(suite, why or skipped.get("message") or "skipped by the suite itself")].append(test)
        else:
            count["passed"] += 1
    rows.append((suite, count["passed"], count["failed"], count["skipped"]))

print(f"{'suite':<36}{'passed':>8}{'failed':>8}{'skipped':>9}")
for suite, *numbers in rows:
    print(f"{suite:<36}{numbers[0]:>8}{numbers[1]:>8}{numbers[2]:>9}")
for suite, test, message in failures:
    print(f"\nFAILED {suite} {test}\n    {message}")
if skips:
    print("\nLeft out:")
for (suite, why), tests in skips.items():
    print(f"  {suite}: {why}")
    for test in sorted(set(tests)):
        print(f"    {test}")
passed, failed, skipped = (sum(column) for column in list(zip(*rows))[1:]) if rows else (0, 0, 0)
print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or not passed else 0)
