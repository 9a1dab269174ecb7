"""Runs a command that cannot outlive its parent: `python guard.py '{"parent": 1, …}' command`.

The guard becomes the command (exec), so the process id and the signals are those of the command.
The guard replaces `preexec_fn`, which is not safe if the parent has threads. The guard also drops
root for programs that refuse to run as root. It drops root first, because Linux clears the
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
    """Prepares this process as the first argument says, then becomes the command in the others."""
    prepare(json.loads(sys.argv[1]))
    command = sys.argv[2:]
    try:
        os.execvp(command[0], command)  # noqa: S606 - the purpose of this program
    except FileNotFoundError:
        sys.exit(f"{command[0]}: not found")
    except PermissionError:
        sys.exit(f"{command[0]}: no permission to run it")


def prepare(options: dict[str, Any]) -> None:
    """Binds this process to its parent, and undoes inherited settings."""
    if options["user"] is not None:
        uid, gid = options["user"]
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, options["death_signal"])
        if os.getppid() != options["parent"]:  # the parent died before the call
            sys.exit(1)
    # An ignored signal stays ignored through exec. Python itself ignores the first two. A shell
    # that started us in the background may ignore the others.
    for number in ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, number), signal.SIG_DFL)
    # In the C locale Python sets these variables itself. The command must get exactly the
    # environment that its caller gave.
    for name in options["unset"]:
        os.environ.pop(name, None)


if __name__ == "__main__":
    main()
