"""Run a command that cannot outlive who started it: `python guard.py '{"parent": 123, …}' command
…`.

It becomes the command (exec), so the process id and the signals are the command's own. Doing this
in a fresh interpreter rather than in `preexec_fn` is safe whatever threads the parent has. It also
drops root for programs that refuse to run as root, in the one order that works: Linux forgets the
parent-death signal when the user changes.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main() -> None:
    """Prepare this process as the first argument says, then become the command in the others."""
    prepare(json.loads(sys.argv[1]))
    command = sys.argv[2:]
    try:
        os.execvp(command[0], command)  # noqa: S606 - starting the command is what this is for
    except FileNotFoundError:
        sys.exit(f"{command[0]}: not found")
    except PermissionError:
        sys.exit(f"{command[0]}: not allowed to run it")


def prepare(options: dict[str, Any]) -> None:
    """Bind this process to its parent, and undo what it inherited."""
    if options["user"] is not None:
        uid, gid = options["user"]
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, options["death_signal"])
        if os.getppid() != options["parent"]:  # it died before we asked to be told
            sys.exit(1)
    # What is ignored here stays ignored through exec: the first two by Python itself, the others
    # perhaps by the shell that started us in the background.
    for number in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, number), signal.SIG_DFL)
    # In the C locale Python sets this for itself, and the command is promised exactly the
    # environment it was given.
    for name in options["unset"]:
        os.environ.pop(name, None)


if __name__ == "__main__":
    main()
