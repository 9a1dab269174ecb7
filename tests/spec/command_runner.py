"""Runs many commands of operators in one process: `python -m tests.spec.command_runner JSON`.

Most of a command's time is the start of its process. Each command runs the real `main` with its own
arguments, and with variables that are added to the environment. The process prints one line of JSON
for each command: exit code, stdout and stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

from workers.__main__ import main


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Runs a command. Returns its exit code and output."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["workers", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                err.write(f"{end.code}\n")
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    given = dict(os.environ)
    for added, *command in json.loads(sys.argv[1]):
        os.environ.clear()
        os.environ.update(given | added)
        sys.stdout.write(json.dumps(run(command)) + "\n")
