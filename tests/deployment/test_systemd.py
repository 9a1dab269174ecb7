"""The units of systemd run the commands of the Procfile, with time to drain and without rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.stack.processes import procfile_commands

COMMANDS = procfile_commands(ROOT / "Procfile")
UNITS = {name: ROOT / "deploy" / "systemd" / f"mkwanja-{name}.service" for name in COMMANDS}
PROCESSES = sorted(set(COMMANDS) - {"release"})

_NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings(name: str) -> Mapping[str, list[str]]:
    """The values of each setting of the unit, in their order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in re.findall(r"^(\w+)=(.*)$", UNITS[name].read_text(), re.MULTILINE):
        found[key].append(value)
    return found


def test_each_line_of_the_procfile_has_a_unit_and_no_other_has() -> None:
    folder = ROOT / "deploy" / "systemd"
    assert sorted(folder.glob("*.service")) == sorted(UNITS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_unit_runs_the_command_of_the_procfile_in_its_folder(name: str) -> None:
    unit = settings(name)
    [folder] = unit["WorkingDirectory"]
    assert unit["ExecStart"] == [f"{folder}/.venv/bin/{COMMANDS[name]}"]
    assert unit["User"] == ["mkwanja"]
    assert unit["EnvironmentFile"] == ["/etc/mkwanja/common.env", f"/etc/mkwanja/{name}.env"]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_drains_at_a_stop_and_starts_again_after_any_end(name: str) -> None:
    """A process drains in 20 s. systemd kills it later than that."""
    unit = settings(name)
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert (unit["KillMode"], unit["KillSignal"]) == (["mixed"], ["SIGTERM"])
    assert int(unit["TimeoutStopSec"][0]) >= 25
    assert int(unit["LimitNOFILE"][0]) >= 8192


def test_the_release_runs_once_and_as_long_as_it_needs() -> None:
    unit = settings("release")
    assert (unit["Type"], unit["TimeoutStartSec"]) == (["oneshot"], ["infinity"])
    assert not {"Restart", "WantedBy"} & set(unit)


def test_all_units_are_hardened_alike() -> None:
    parts = {path.read_text().partition("# It needs no file")[2] for path in UNITS.values()}
    assert len({part.partition("\n[Install]")[0].strip() for part in parts}) == 1
    assert "ProtectSystem=strict" in parts.pop()


@_NEEDS_SYSTEMD
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """It knows every setting. The programs are those of this folder."""
    for path in UNITS.values():
        text = path.read_text().replace("/srv/mkwanja", str(ROOT))
        (tmp_path / path.name).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    verified = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "mkwanja-" in line]
    assert (verified.returncode, ours) == (0, []), verified.stderr


@_NEEDS_SYSTEMD
@pytest.mark.parametrize("name", COMMANDS)
def test_systemd_rates_the_exposure_of_a_unit_as_low(name: str) -> None:
    """The scale ends at 100. A unit without hardening has 96."""
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(UNITS[name])],
        capture_output=True,
        text=True,
        check=False,
    )
    if "--offline" in rated.stderr:
        pytest.skip("this systemd-analyze rates no file")
    assert rated.returncode == 0, rated.stdout[-300:] + rated.stderr
