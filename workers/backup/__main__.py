"""`python -m workers.backup save|restore|protect`."""

from __future__ import annotations

from workers.backup.command import main

main()
