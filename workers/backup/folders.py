"""The folder of a backup, as a person names it."""

from __future__ import annotations

import argparse
from pathlib import Path

from workers.backup.programs import BackupError


def parse_folder(text: str) -> Path:
    """A type of argparse. `Path("")` would be the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("name a folder, for example backups/2026-03-01")
    return Path(text)


def name_partial(new: Path) -> Path:
    """The name of the folder `new` while it is written. Raises BackupError if it cannot be made.

    The folder above `new` must exist: if the name of a mounted disk is misspelt, or the disk is not
    mounted, the backup would otherwise be written to another disk.
    """
    if new.name in ("", ".."):
        raise BackupError(
            f"{new} is a folder that exists; name a new folder in it, for example"
            f" {new / '2026-03-01'}"
        )
    if not new.parent.is_dir():
        raise BackupError(
            f"there is no folder {new.parent} for the backup. Correct the name, mount the disk, or"
            " make that folder first"
        )
    partial = new.with_name(new.name + ".partial")
    for path in (new, partial):
        if path.exists() or path.is_symlink():
            raise BackupError(f"{path} exists; name a new folder, or remove it")
    return partial
