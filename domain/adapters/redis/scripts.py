"""The first line of each Lua script that must run also if Redis is full.

A full Redis (`noeviction`) rejects each write, and each script that may write. A send needs some of
our scripts. `allow-oom` lets these scripts run. They store a few short keys that expire. Together
these keys use less memory than one connection.
"""

ALSO_WHEN_FULL = "#!lua flags=allow-oom\n"
