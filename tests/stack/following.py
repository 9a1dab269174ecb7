"""Follows the logs of all processes. `make run` shows each line with the name of its process."""

from collections.abc import Iterator
from pathlib import Path


class Follower:
    """Reads the complete lines that were added to a folder's logs since the last call."""

    def __init__(self, folder: Path, *, without: frozenset[str] = frozenset()) -> None:
        self._folder = folder
        self._without = without
        self._read: dict[Path, int] = {}

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """Yields each new line with the name of its process; the first call yields all lines."""
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
