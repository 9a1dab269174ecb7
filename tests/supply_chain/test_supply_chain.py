"""The check of dependencies, on small lock files: pip-audit asks a service on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.stack.ports import release_port, reserve_port
from tests.supply_chain.audit import KNOWN_VULNERABLE, audit, judge
from tests.supply_chain.licences import check_licences, installed_licences
from tests.supply_chain.policy import ROOT, Licences, locked_versions, read_policy

TODAY = datetime.now(UTC).date()
LOCK = (
    f"alpha==1.0 \\\n    --hash=sha256:{'0' * 64}\n    # via beta\n"
    "beta==2.0 ; sys_platform == 'win32' \\\n"
)
UNREACHABLE = "2 of 2 packages not audited (the service cannot be reached)"
UNINFORMED = "2 of 2 packages not audited (the service does not report even a famous vulnerability)"


def exceptions(*, since: date = TODAY, until: date = TODAY, **changes: str) -> str:
    """A policy with one exception."""
    fields = {"id": "CVE-1", "package": "alpha", "reason": "a reason of some length", **changes}
    lines = [f'{name} = "{value}"' for name, value in fields.items()]
    lines += [f"since = {since}", f"until = {until}", ""]
    return '[licences]\nallowed = ["MIT"]\n[[vulnerability_exceptions]]\n' + "\n".join(lines)


class Service:
    """A vulnerability service with the protocol of OSV.

    `known` has the ids of each package. `answer`, if set, answers every question.
    """

    def __init__(self) -> None:
        self.url = ""
        self.known: dict[str, list[str]] = {KNOWN_VULNERABLE[0]: ["PYSEC-2019-217"]}
        self.answer: web.Response | None = None
        self.asked: set[tuple[str, str]] = set()

    async def reply(self, request: web.Request) -> web.StreamResponse:
        question = json.loads(await request.text())
        name = question["package"]["name"]
        self.asked.add((name, question["version"]))
        if self.answer is not None:
            return web.Response(status=self.answer.status, text=self.answer.text)
        ids = self.known.get(name, [])
        details = {"aliases": ids[1:], "summary": "runs\x1b[2J what it reads", "affected": []}
        return web.json_response({"vulns": [{"id": ids[0], **details}]} if ids else {})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    running = Service()
    app = web.Application()
    app.router.add_post("/", running.reply)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield running
    await runner.cleanup()


async def run(
    folder: Path, url: str, policy: str = "[licences]\nallowed = ['MIT']\n"
) -> tuple[int | None, list[str]]:
    """The exit code, and the printed lines without the summary of the licences."""
    (folder / "some.lock").write_text(LOCK)
    (folder / "policy.toml").write_text(policy)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.supply_chain"),
        *("--lock", str(folder / "some.lock"), "--policy", str(folder / "policy.toml")),
        cwd=ROOT,
        env={**os.environ, "PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, [
        line for line in output.decode().splitlines() if not line.startswith("licences:")
    ]


@pytest.mark.whole
async def test_every_package_of_the_lock_is_asked_about_and_a_clean_report_is_green(
    service: Service, tmp_path: Path
) -> None:
    """The lock file has a package for another system, and the service is asked about it too."""
    code, lines = await run(tmp_path, service.url)
    assert (code, lines) == (0, ["audit: 0 findings, 0 excepted, 0 of 2 packages not audited"])
    assert service.asked == {("alpha", "1.0"), ("beta", "2.0"), KNOWN_VULNERABLE}


@pytest.mark.whole
async def test_a_known_vulnerability_is_red_and_printed_without_control_characters(
    service: Service, tmp_path: Path
) -> None:
    service.known["beta"] = ["PYSEC-1", "CVE-1"]
    code, lines = await run(tmp_path, service.url, exceptions())  # of another package
    assert code == 1
    assert lines[0] == "beta 2.0: PYSEC-1 CVE-1 (mended in: none known): runs [2J what it reads"
    assert lines[1] == "the exception of CVE-1 for alpha is not needed: remove it"
    assert lines[2] == "audit: 1 findings, 0 excepted, 0 of 2 packages not audited"


@pytest.mark.whole
@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1"])
async def test_an_exception_accepts_one_vulnerability_of_one_package(
    service: Service, tmp_path: Path, name: str
) -> None:
    service.known["alpha"] = ["PYSEC-1", "CVE-1"]
    code, lines = await run(tmp_path, service.url, exceptions(id=name))
    assert (code, lines) == (0, ["audit: 0 findings, 1 excepted, 0 of 2 packages not audited"])


@pytest.mark.whole
@pytest.mark.parametrize("days", [-1, 1])
async def test_an_expired_exception_is_red_and_accepts_nothing(
    service: Service, tmp_path: Path, days: int
) -> None:
    """The same holds for an exception that has not begun."""
    service.known["alpha"] = ["CVE-1"]
    day = TODAY + timedelta(days=days)
    code, lines = await run(tmp_path, service.url, exceptions(since=day, until=day))
    assert code == 1
    assert [line.partition(":")[0] for line in lines[:2]] == [
        "alpha 1.0",
        f"the exception of CVE-1 for alpha holds from {day} to {day}",
    ]


@pytest.mark.whole
async def test_without_a_reachable_service_nothing_is_audited_and_the_check_is_green(
    tmp_path: Path,
) -> None:
    """`make check` works without a network, and then says that it audited no package."""
    port = reserve_port()
    code, lines = await run(tmp_path, f"http://127.0.0.1:{port}/", exceptions())
    release_port(port)
    assert (code, lines) == (0, [f"audit: 0 findings, 0 excepted, {UNREACHABLE}"])


@pytest.mark.whole
@pytest.mark.parametrize(
    ("answer", "code", "line"),
    [
        (web.Response(status=500), 0, f"audit: 0 findings, 0 excepted, {UNREACHABLE}"),
        (web.Response(text="<html>"), 0, f"audit: 0 findings, 0 excepted, {UNREACHABLE}"),
        # A mirror without data answers like a service that knows no vulnerability.
        (web.Response(text="{}"), 0, f"audit: 0 findings, 0 excepted, {UNINFORMED}"),
        (web.Response(text='{"something": 1}'), 1, "pip-audit failed: KeyError: 'vulns'"),
    ],
    ids=["an error", "a page", "no data", "an answer that pip-audit itself fails on"],
)
async def test_a_broken_or_empty_answer_of_the_service_audits_nothing(
    service: Service, tmp_path: Path, answer: web.Response, code: int, line: str
) -> None:
    """A failure of pip-audit itself is red."""
    service.answer = answer
    assert await run(tmp_path, service.url) == (code, [line])


def test_an_audit_ends_if_the_service_does_not_answer() -> None:
    result = audit({"alpha": "1.0"}, [], TODAY, seconds=0.01)
    assert result.not_audited == {"alpha": "the service did not answer in time"}


def test_a_package_that_the_service_does_not_know_is_named_and_its_exception_not_judged(
    tmp_path: Path,
) -> None:
    (tmp_path / "policy.toml").write_text(exceptions())
    excepted = read_policy(tmp_path / "policy.toml").vulnerability_exceptions
    known = {"id": "CVE-2", "aliases": [], "fix_versions": [], "description": "harm"}
    reported: dict[str, Any] = {
        "alpha": {"skip_reason": "the service does not know it"},
        "beta": {"vulns": []},
        "jinja2": {"vulns": [known]},
    }
    result = judge({"alpha": "1.0", "beta": "2.0"}, reported, excepted, TODAY)
    assert result.red == []
    assert result.summary() == "audit: 0 findings, 0 excepted, 1 of 2 packages not audited (alpha)"


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[licences]\nallowed = []\n",
        exceptions() + 'expires = "2026-12-31"\n',
        exceptions(id=""),
        exceptions(package="Some_Package"),
        exceptions(reason="false positive"),
        exceptions(until=TODAY - timedelta(days=1)),
        exceptions(until=TODAY + timedelta(days=367)),
    ],
)
def test_a_malformed_policy_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    "text",
    ["", "alpha>=1.0\n", "alpha\n", "!!\n", "-e .\n", "alpha==1.*\n", "alpha==1.0 beta==2\n"],
)
def test_a_file_without_exact_versions_is_no_lock_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "some.lock").write_text(text)
    with pytest.raises(ValueError, match=r"some\.lock"):
        locked_versions(tmp_path / "some.lock")


def test_a_licence_is_red_unless_its_whole_text_is_agreed_to() -> None:
    """A package with two licences needs both to be agreed to."""
    found = {"a": "MIT", "b": "MIT; GPL-3.0-only", "c": "", "tool": "Unlicense", "stray": "UNKNOWN"}
    licences = Licences(allowed=["MIT"], packages={"tool": "Unlicense"})
    red, summary = check_licences(["a", "b", "c", "tool", "absent"], found, licences)
    assert red == [
        "b: its licence 'MIT; GPL-3.0-only' is not agreed to",
        "c: its licence '' is not agreed to",
    ]
    assert summary == (
        "licences: 2 red, 4 packages; not installed here: absent;"
        " installed here but not locked, so not judged: stray"
    )


def test_the_licence_of_every_package_of_our_lock_is_agreed_to() -> None:
    locked, found = locked_versions(), installed_licences()
    assert check_licences(locked, found, read_policy().licences)[0] == []
    assert (
        locked.keys() - found.keys() - {"async-timeout", "colorama", "uvloop"} == set()
    )  # for other systems
