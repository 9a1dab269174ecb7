"""What a person gives the program for backups, and the one line that answers a mistake.

No server is needed: a mistake is found before the program connects.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workers.backup.command import main

_URL = "postgresql://mkwanja:s3cret@127.0.0.1:1/mkwanja"


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DATABASE_URL", _URL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """The line of a refused command."""
    monkeypatch.setattr(sys, "argv", ["backup", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.isprintable()
    assert "s3cret" not in line
    return line


@pytest.mark.parametrize(
    ("command", "name", "text"),
    [
        ("save", "", "name a folder"),
        ("save", " ", "name a folder"),
        ("restore", "", "name a folder"),
        ("save", ".", ". is a folder that exists; name a new folder in it"),
        ("save", "/", "/ is a folder that exists; name a new folder in it"),
        ("save", "..", ".. is a folder that exists; name a new folder in it"),
        ("save", "x\x1b/y", "there is no folder x\\x1b for"),
        ("save", "x" * 300, "File name too long"),
        ("restore", ".", "No such file or directory: manifest.json"),
    ],
)
def test_a_name_that_is_no_folder_of_a_backup_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    text: str,
) -> None:
    assert text in answer(monkeypatch, capsys, command, name)


def test_a_backup_makes_no_folder_above_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_a_folder: Path
) -> None:
    """A misspelt or unmounted disk would otherwise be a new folder of another disk."""
    line = answer(monkeypatch, capsys, "save", "mnt/backpus/2026-03-01")
    assert "there is no folder mnt/backpus for the backup" in line
    (in_a_folder / "file").touch()
    assert "there is no folder file" in answer(monkeypatch, capsys, "save", "file/2026-03-01")
    assert [path.name for path in in_a_folder.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["2026-03-01", "2026-03-01.partial"])
def test_a_link_to_nothing_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_a_folder: Path,
    name: str,
) -> None:
    """The program would notice it only after the whole dump."""
    (in_a_folder / name).symlink_to("nothing")
    assert f"{name} exists; name a new folder" in answer(monkeypatch, capsys, "save", "2026-03-01")


@pytest.mark.parametrize(
    "text", ["mkwanja", "postgresql://u:s3cret@h/db", "", "a\x1b b", "a " * 101]
)
def test_a_description_that_may_be_meant_as_a_database_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """`protect` stops payouts, and its argument does not choose where."""
    line = answer(monkeypatch, capsys, "protect", text)
    assert "The description chooses no database" in line
    assert "DATABASE_URL" in line


def test_the_help_of_protect_says_that_it_stops_payouts_and_flags_payments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["backup", "protect", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = " ".join(capsys.readouterr().out.split())
    assert "Changes the database in DATABASE_URL at once: stops payouts, flags each unsent" in text
    assert "DESCRIPTION" in text
