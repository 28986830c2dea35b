"""Which tests of the official suites cannot apply to a self-hosted service without Internet, and why.

A pytest plugin, and the same list for what reads vitest's reports. Each entry: a part of the suite's name, a pattern for
the test's id (file::name, as fnmatch has it), the reason. The plugin also writes down what failed, for a second run."""

import fnmatch
import os

INTERNET = "calls hosts on the Internet from inside the sandbox"

NEWER = "tests of SDK 2.45 contradict what SDK {} does: "
SYMLINK = NEWER.format("2.55 and later") + "links are reported as links (EntryInfo.isSymlink)"
TOKENS = NEWER.format("2.51 and later") + "connect calls another function than the one the test replaces"

NOT_APPLICABLE = [
    ("python-newest", "*test_file_symlink*", SYMLINK),
    ("python-newest", "*test_connect_normalizes_unset_tokens*", TOKENS),
    ("python-2.51.0", "*test_connect_normalizes_unset_tokens*", TOKENS),
    ("python-2.51.0", "*test_fork_invalid_count*", "tests of a newer SDK, which refuses the number itself; 2.51 has the API do it"),
    ("", "*test_internet_access_enabled*", INTERNET),
    ("", "*test_internet_access_default*", INTERNET),
    ("", "*test_allow_specific_ip_with_deny_all*", INTERNET),
    ("", "*test_deny_specific_ip*", INTERNET),
    ("", "*test_allow_takes_precedence_over_deny*", INTERNET),
    ("", "*test_firewall_transform_injects_headers*", INTERNET),
    ("", "*test_update_network_applies_restrictions*", INTERNET),
    ("", "*test_update_network_clears_existing_rules*", INTERNET),
    ("js", "*allow specific IP with deny all traffic*", INTERNET),
    ("js", "*deny specific IP address*", INTERNET),
    ("js", "*allow takes precedence over deny*", INTERNET),
    ("js", "*injected header is reflected by the httpbin sidecar*", INTERNET),
    ("js", "*denies a previously reachable IP after update*", INTERNET),
    ("js", "*omitting fields replaces all egress rules*", INTERNET),
    ("js", "*internet access enabled*", INTERNET),
    ("js", "*internet access default*", INTERNET),
]


def reason(suite, test):
    for part, pattern, why in NOT_APPLICABLE:
        if part in suite and fnmatch.fnmatch(test, pattern):
            return why
    return None


def pytest_collection_modifyitems(items):
    import pytest

    suite = os.environ.get("CONFORMANCE_SUITE", "")
    for item in items:
        why = reason(suite, item.nodeid)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_runtest_logreport(report):
    failed = os.environ.get("CONFORMANCE_FAILED")
    if failed and report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(failed, "a") as names:
            print(report.nodeid, file=names)
