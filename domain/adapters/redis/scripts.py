"""What every script of ours begins with if a full Redis must run it.

A Redis that is full (`noeviction`) refuses each write, and so each script that may write. Ours that
a send cannot do without keep a few short keys, which expire: `allow-oom` lets them run, and what
they add is less than a connection costs.
"""

ALSO_WHEN_FULL = "#!lua flags=allow-oom\n"
