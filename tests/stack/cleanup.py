"""Removes this program's processes, folders and databases when it exits.

The context managers clean up after themselves. This module is for exits that run no `finally`: code
that starts something registers its removal, and at exit the registered removals run. SIGTERM and
SIGHUP would end Python without the removals, so after the first registration both act like Ctrl-C.
After SIGKILL no code of ours runs: processes still die with their parent (`guard`), but folders
stay.
"""

import atexit
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

Removal = Callable[[], None]

_pending: dict[int, tuple[int, Removal]] = {}
_last_number = 0


def register(remove: Removal) -> int:
    """Calls `remove` at exit, unless `unregister` gets the returned number before."""
    global _last_number  # noqa: PLW0603 - one list for the program, like atexit's own
    treat_termination_as_interrupt()
    _last_number += 1
    _pending[_last_number] = (os.getpid(), remove)
    return _last_number


def unregister(number: int) -> None:
    """Cancels a removal that is not needed any more."""
    _pending.pop(number, None)


class TemporaryFolder:
    """A temporary folder. `remove` deletes it, or at the latest the exit of the program."""

    def __init__(self, prefix: str, *, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._registration = register(self._remove_now)

    def remove(self) -> None:
        """Deletes the folder and everything in it."""
        unregister(self._registration)
        self._remove_now()

    def leave(self) -> None:
        """Leaves the folder in place at exit, so that a person can read it."""
        unregister(self._registration)

    def _remove_now(self) -> None:
        # A server that is ending may delete a file during the walk. A second walk deletes the rest.
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)


@atexit.register
def _remove_everything() -> None:
    for number in sorted(_pending, reverse=True):
        owner, remove = _pending.pop(number)
        if owner != os.getpid():
            continue  # a forked child must not stop its parent's servers
        with suppress(Exception):  # a removal that fails must not prevent the others
            remove()


def treat_termination_as_interrupt() -> None:
    """Makes SIGTERM and SIGHUP act like Ctrl-C, if no other code handles them."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Raise the signal and do not call its handler: asyncio, pytest and others each handle Ctrl-C in
    # their own way (cancel the main task, wake a loop, end the run). A program that a shell started
    # in the background ignores Ctrl-C, but SIGTERM must still end it.
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
