"""The first line of each Lua script that must run also if Redis is full.

A full Redis (`noeviction`) rejects each write, and each script that may write. A send needs some of
our scripts. They store a few short keys that expire. `allow-oom` lets them run, and together they
add less memory than one connection uses.
"""

ALSO_WHEN_FULL = "#!lua flags=allow-oom\n"
