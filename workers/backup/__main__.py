"""`python -m workers.backup save|restore|protect`."""

from __future__ import annotations

# Ctrl-C during the imports ends the process without a stack trace.
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from workers.backup.command import main  # noqa: E402

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
