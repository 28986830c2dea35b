"""Compares a guest's clock with this host's, for the e2e suite; runs on the host that cubed runs on.

usage: clock.py PORT SANDBOX GUEST-PORT. In the guest a web server answers with the nanoseconds of its clock. Each answer
was read between asking and hearing, so the guest is ahead by at least answer - heard and at most answer - asked; many
round trips, as bad as each may be, leave little in between. Prints both bounds in milliseconds.
"""

import http.client
import sys
import time

api_port, sandbox, guest_port = sys.argv[1:]
headers = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": guest_port}
connection = http.client.HTTPConnection("127.0.0.1", int(api_port), timeout=60)
least, most = float("-inf"), float("inf")
for _ in range(30):
    asked = time.time_ns()
    connection.request("GET", "/", headers=headers)
    answer = int(connection.getresponse().read())
    heard = time.time_ns()
    least, most = max(least, answer - heard), min(most, answer - asked)
print(least / 1e6, most / 1e6)
