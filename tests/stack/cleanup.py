"""What must not outlive this program: processes, folders, databases on a server that is not ours.

The context managers clear up after themselves. This is for the ways out that run no `finally`:
whoever starts something registers how to remove it, and what is still registered at exit is removed
then. SIGTERM and SIGHUP would end Python without even that, so from the first registration on they
mean what Ctrl-C means. After SIGKILL nothing of ours runs: processes still die with their parent
(`guard`), folders stay.
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
    """Have `remove` called at exit, unless `unregister` is called with the returned number
    first.
    """
    global _last_number  # noqa: PLW0603 - one list for the program, like atexit's own
    treat_termination_as_interrupt()
    _last_number += 1
    _pending[_last_number] = (os.getpid(), remove)
    return _last_number


def unregister(number: int) -> None:
    """Forget a removal that was done in the ordinary way."""
    _pending.pop(number, None)


class TemporaryFolder:
    """A temporary folder of our own, removed by `remove` or, at the latest, at exit."""

    def __init__(self, prefix: str, *, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._registration = register(self._remove_now)

    def remove(self) -> None:
        """Delete the folder and everything in it."""
        unregister(self._registration)
        self._remove_now()

    def leave(self) -> None:
        """Let the folder stay: somebody wants to read it."""
        unregister(self._registration)

    def _remove_now(self) -> None:
        # A file may vanish while we walk (a server that is just ending); a second walk finds the
        # rest.
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)


@atexit.register
def _remove_everything() -> None:
    for number in sorted(_pending, reverse=True):
        owner, remove = _pending.pop(number)
        if owner != os.getpid():
            continue  # a forked child must not stop its parent's servers
        with suppress(Exception):  # one that fails must not keep the others from being removed
            remove()


def treat_termination_as_interrupt() -> None:
    """Give SIGTERM and SIGHUP, where nobody else handles them, the meaning of Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Sent and not called: whoever took over Ctrl-C (asyncio cancels its main task, a loop wakes up,
    # pytest ends its run) did so in a way of its own. A program that a shell started in the
    # background ignores Ctrl-C; it must still be possible to terminate it.
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
