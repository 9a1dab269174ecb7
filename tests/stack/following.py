"""The logs of all processes as they grow: `make run` shows them, each line with the name of who
wrote it.
"""

from collections.abc import Iterator
from pathlib import Path


class Follower:
    """Reads what was added to a folder's logs since the last look, whole lines only."""

    def __init__(self, folder: Path, *, without: frozenset[str] = frozenset()) -> None:
        self._folder = folder
        self._without = without
        self._read: dict[Path, int] = {}

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """Each new line with the name of its process; the first look begins at the beginning."""
        for log in sorted(self._folder.glob("*.log")):
            if log.stem in self._without:
                continue
            with log.open("rb") as file:
                file.seek(self._read.get(log, 0))
                complete = file.read().rpartition(b"\n")[0]
            if complete:
                self._read[log] = self._read.get(log, 0) + len(complete) + 1
                for line in complete.decode(errors="replace").split("\n"):
                    yield log.stem, line
