"""The audit against a real index on this machine: what is red, what is let pass, and what is called not audited."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.stack.ports import release_port, reserve_port
from tests.supply_chain.audit import Audit, Lock, audit
from tests.supply_chain.index import KNOWN_VULNERABLE, NOT_IN_TIME, UNREACHABLE, Configuration, Index
from tests.supply_chain.local_index import TRICKLE, LocalIndex, known, local_index
from tests.supply_chain.policy import ROOT, VulnerabilityException

pytestmark = pytest.mark.whole

TODAY = date(2026, 11, 25)
LOCK = "alpha==1.0 \\\n    --hash=sha256:{0}\nbeta==2.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{0}\n".format(
    "0" * 64
)
# Long enough for a busy machine; only tests of what never answers wait for it.
ANSWER_SECONDS = 20.0


@pytest.fixture
async def index() -> AsyncIterator[LocalIndex]:
    async with local_index() as running:
        running.tell("alpha", "1.0")
        running.tell("beta", "2.0")
        yield running


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One on which nobody listens."""
    port = reserve_port()
    yield port
    release_port(port)


def an_exception(name: str = "CVE-1", package: str = "alpha", *, days: int = 1) -> VulnerabilityException:
    until = TODAY + timedelta(days=days)
    return VulnerabilityException(
        id=name, package=package, reason="a reason of some length", since=until - timedelta(days=30), until=until
    )


async def audited(
    lock: Path, index_url: str, *exceptions: VulnerabilityException, all_seconds: float = ANSWER_SECONDS
) -> Audit:
    asked = Index(Configuration(index_url), answer_seconds=ANSWER_SECONDS, all_seconds=all_seconds)
    return await asyncio.to_thread(audit, Lock(lock), asked, list(exceptions), today=TODAY)


async def test_what_is_told_to_have_none_is_audited(index: LocalIndex, lock: Path) -> None:
    result = await audited(lock, index.url)
    assert (result.red, result.not_audited) == ([], {})
    assert result.summary() == "audit: 0 findings, 0 excepted, 0 of 2 packages not audited"


async def test_a_known_vulnerability_is_red_and_named_with_its_remedy(index: LocalIndex, lock: Path) -> None:
    """Also in a package that is for another system than this."""
    index.tell("beta", "2.0", (known("PYSEC-1", aliases=["CVE-1"], summary="runs\x1b[2J what it reads"),))
    result = await audited(lock, index.url)
    assert result.red == ["beta 2.0: PYSEC-1 CVE-1 (mended in: 9.9): runs [2J what it reads"]
    assert result.summary() == "audit: 1 finding, 0 excepted, 0 of 2 packages not audited"


async def test_one_vulnerability_told_under_two_names_is_one_finding(index: LocalIndex, lock: Path) -> None:
    told = known("PYSEC-1", aliases=["CVE-1", "GHSA-1"]), known("GHSA-1", aliases=["CVE-1", "PYSEC-1"])
    index.tell("alpha", "1.0", told)
    assert (await audited(lock, index.url)).findings == 1


async def test_a_vulnerability_that_was_withdrawn_is_none(index: LocalIndex, lock: Path) -> None:
    index.tell("alpha", "1.0", (known("CVE-1", withdrawn="2026-01-01T00:00:00Z"),))
    assert (await audited(lock, index.url)).red == []


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1"])
async def test_an_exception_lets_one_vulnerability_of_one_package_pass(
    index: LocalIndex, lock: Path, name: str
) -> None:
    index.tell("alpha", "1.0", (known("PYSEC-1", aliases=["CVE-1"]), known("CVE-2")))
    index.tell("beta", "2.0", (known("CVE-1"),))
    result = await audited(lock, index.url, an_exception(name))
    assert [line.partition(" (")[0] for line in result.red] == ["alpha 1.0: CVE-2", "beta 2.0: CVE-1"]
    assert (result.findings, result.excepted) == (2, 1)


async def test_an_exception_that_is_over_is_red_and_lets_nothing_pass(index: LocalIndex, lock: Path) -> None:
    index.tell("alpha", "1.0", (known("CVE-1"),))
    assert (await audited(lock, index.url, an_exception(days=0))).red == []
    result = await audited(lock, index.url, an_exception(days=-1))
    assert len(result.red) == 2
    assert result.red[1] == "the exception of CVE-1 for alpha ended on 2026-11-24: look at it again"


async def test_an_exception_that_has_not_begun_lets_nothing_pass(index: LocalIndex, lock: Path) -> None:
    index.tell("alpha", "1.0", (known("CVE-1"),))
    result = await audited(lock, index.url, an_exception(days=100))
    assert len(result.red) == 2
    assert "which is to come" in result.red[1]


async def test_an_exception_that_is_not_needed_any_more_is_red(index: LocalIndex, lock: Path) -> None:
    result = await audited(lock, index.url, an_exception(), an_exception(package="gamma"))
    assert result.red == [
        "the exception of CVE-1 for alpha is for a vulnerability that it does not have: take it out",
        "the exception of CVE-1 for gamma is for a package that the lock does not name: take it out",
    ]


async def test_whether_an_exception_is_needed_is_not_judged_without_data(index: LocalIndex, lock: Path) -> None:
    del index.pages["alpha/1.0/json"]
    assert (await audited(lock, index.url, an_exception())).red == []


async def test_an_index_with_pages_for_projects_only_tells_of_the_newest_version(index: LocalIndex, lock: Path) -> None:
    index.pages.clear()
    name, version = KNOWN_VULNERABLE[-1]
    index.tell(name, version, (known("CVE-2024-23342"),), by_version=False)
    index.tell("alpha", "1.0", (known("CVE-1"),), by_version=False)
    index.tell("beta", "2.1", (), by_version=False)
    result = await audited(lock, index.url)
    assert result.findings == 1
    assert result.not_audited == {"beta": "the index tells of another version only"}


HTML = b"<html>Not Found</html>"
UNREADABLE = "the index's page for it cannot be read"
NOT_READ = "the index's word on it cannot be read"
INFO = {"info": {"version": "1.0"}}
TELLS_NOTHING: dict[str, tuple[Any, str]] = {
    "no page": (404, "the index has no page for it"),
    "a page that asks for a password": (401, "the index answered with status 401"),
    "a fault": (500, "the index answered with status 500"),
    "an empty page": (b"", UNREADABLE),
    "a page for people": (HTML, UNREADABLE),
    "bytes that are no text": (b"\xff\xfe\x00", UNREADABLE),
    "depth without end": (b"[" * 100_000, UNREADABLE),
    "a list": ([], UNREADABLE),
    "no information": ({"vulnerabilities": []}, UNREADABLE),
    "no version": ({"info": {}, "vulnerabilities": []}, UNREADABLE),
    "no member": (INFO, "the index gives no data"),
    "null": ({**INFO, "vulnerabilities": None}, "the index gives no data"),
    "a word": ({**INFO, "vulnerabilities": "none"}, "the index gives no data"),
    "numbers": ({**INFO, "vulnerabilities": [1]}, NOT_READ),
    "nameless ones": ({**INFO, "vulnerabilities": [{}]}, NOT_READ),
    "a remedy that is no version": ({**INFO, "vulnerabilities": [known("CVE-1", fixed_in=["soon"])]}, NOT_READ),
    "a remedy that is a number": ({**INFO, "vulnerabilities": [known("CVE-1", fixed_in=[1])]}, NOT_READ),
    "a time that is none": ({**INFO, "vulnerabilities": [known("CVE-1", published="now")]}, NOT_READ),
    "another version": ({"info": {"version": "1.1"}, "vulnerabilities": []}, "the index tells of another version only"),
}


@pytest.mark.parametrize("case", TELLS_NOTHING)
async def test_what_is_told_nothing_about_is_called_not_audited(index: LocalIndex, lock: Path, case: str) -> None:
    index.pages["alpha/1.0/json"], reason = TELLS_NOTHING[case]
    result = await audited(lock, index.url)
    assert (result.red, result.not_audited) == ([], {"alpha": reason})
    assert result.summary() == f"audit: 0 findings, 0 excepted, 1 of 2 packages not audited ({reason}: alpha)"


async def test_empty_lists_of_an_index_that_knows_nothing_at_all_are_not_believed(
    index: LocalIndex, lock: Path
) -> None:
    """A mirror that fills the member in with nothing looks like one that knows of nothing bad."""
    for name, version in KNOWN_VULNERABLE:
        index.tell(name, version, ())
    summary = (await audited(lock, index.url)).summary()
    assert summary.startswith("audit: 0 findings, 0 excepted, 2 of 2 packages not audited (the index gives no data: ")


async def test_a_finding_counts_from_whatever_index_and_shows_that_it_has_data(index: LocalIndex, lock: Path) -> None:
    del index.pages["jinja2/2.10/json"]
    index.tell("alpha", "1.0", (known("CVE-1"),))
    result = await audited(lock, index.url)
    assert (result.findings, result.not_audited) == (1, {})


async def test_an_index_that_cannot_be_reached_is_said_to_be_and_is_not_asked_on(lock: Path, closed_port: int) -> None:
    result = await audited(lock, f"http://127.0.0.1:{closed_port}/simple")
    assert result.red == []
    assert result.summary() == f"audit: 0 findings, 0 excepted, 2 of 2 packages not audited ({UNREACHABLE})"


async def test_an_index_that_never_answers_holds_nobody_up(index: LocalIndex, lock: Path) -> None:
    index.pages.update(dict.fromkeys([f"{name}/{version}/json" for name, version in KNOWN_VULNERABLE]))
    result = await audited(lock, index.url, all_seconds=0.2)
    assert result.not_audited == {"alpha": NOT_IN_TIME, "beta": NOT_IN_TIME}
    assert "alpha/1.0/json" not in index.asked


async def test_a_page_that_never_comes_holds_the_others_up_no_longer_than_the_time_for_all(
    index: LocalIndex, lock: Path
) -> None:
    index.pages["alpha/1.0/json"] = None
    index.tell("beta", "2.0", (known("CVE-1"),))
    result = await audited(lock, index.url, all_seconds=3)
    assert (result.findings, result.not_audited) == (1, {"alpha": NOT_IN_TIME})


@pytest.mark.parametrize("text", ["", "alpha>=1.0\n", "alpha\n", "!!\n", "-e .\n"])
def test_what_does_not_name_versions_is_no_lock(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.lock"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"some\.lock"):
        Lock(path).versions()


@pytest.fixture
def given(tmp_path: Path) -> tuple[str, ...]:
    """The command's files: two packages, and an exception for one of them that holds whenever this runs."""
    today = datetime.now(UTC).date()
    (tmp_path / "some.lock").write_text("ecdsa==0.19.2\nalpha==1.0\n")
    (tmp_path / "policy.toml").write_text(
        '[licences]\nallowed = ["MIT"]\ndevelopment = []\nnames = {}\n[[vulnerability_exceptions]]\n'
        'id = "CVE-2024-23342"\npackage = "ecdsa"\nreason = "a reason of some length"\n'
        f"since = {today - timedelta(days=2)}\nuntil = {today + timedelta(days=2)}\n"
    )
    return "--lock", str(tmp_path / "some.lock"), "--policy", str(tmp_path / "policy.toml")


async def run(given: tuple[str, ...], **environment: str) -> tuple[int | None, list[str]]:
    """The command of `make check` on other files, in an environment in which pip was told nothing else."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("PIP_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.supply_chain", *given),
        cwd=ROOT,
        env={**clean, "PIP_CONFIG_FILE": os.devnull, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode, output.decode().splitlines()


async def test_the_command_asks_the_index_that_pip_is_configured_with_and_no_other(
    index: LocalIndex, given: tuple[str, ...]
) -> None:
    """With its password, which it does not print."""
    index.tell("ecdsa", "0.19.2", (known("PYSEC-1", aliases=["CVE-2024-23342"]),))
    index.tell("alpha", "1.0", (known("CVE-1"),))
    code, lines = await run(given, PIP_INDEX_URL=index.url.replace("://", "://reader:pass-word@"))
    assert code == 1
    assert lines[0].startswith("alpha 1.0: CVE-1")
    assert lines[-1] == "audit: 1 finding, 1 excepted, 0 of 2 packages not audited"
    assert "pass-word" not in "".join(lines)
    assert index.authorizations == {"Basic cmVhZGVyOnBhc3Mtd29yZA=="}


async def test_the_command_is_green_where_all_is_audited_or_excepted(index: LocalIndex, given: tuple[str, ...]) -> None:
    index.tell("ecdsa", "0.19.2", (known("CVE-2024-23342"),))
    code, lines = await run(given, PIP_INDEX_URL=index.url)
    assert (code, lines[-1]) == (0, "audit: 0 findings, 1 excepted, 0 of 2 packages not audited")


async def test_the_command_ends_well_where_no_index_answers(given: tuple[str, ...], closed_port: int) -> None:
    """`make check` works without: it says that nothing was audited, never that nothing was found."""
    code, lines = await run(given, PIP_INDEX_URL=f"http://127.0.0.1:{closed_port}/simple")
    assert (code, lines[-1]) == (0, f"audit: 0 findings, 0 excepted, 2 of 2 packages not audited ({UNREACHABLE})")
    code, lines = await run(given, PIP_NO_INDEX="1")
    assert code == 0
    assert lines[-1].endswith("2 of 2 packages not audited (pip is configured to use no index)")


async def test_the_command_ends_though_an_index_sends_a_byte_at_a_time(
    index: LocalIndex, given: tuple[str, ...]
) -> None:
    index.pages.update({f"{name}/{version}/json": TRICKLE for name, version in KNOWN_VULNERABLE})
    code, lines = await run((*given, "--seconds", "1"), PIP_INDEX_URL=index.url)
    assert (code, lines[-1]) == (0, f"audit: 0 findings, 0 excepted, 2 of 2 packages not audited ({NOT_IN_TIME})")


async def test_a_policy_that_cannot_be_read_is_red(given: tuple[str, ...], tmp_path: Path) -> None:
    code, lines = await run((*given, "--policy", str(tmp_path / "some.lock")), PIP_NO_INDEX="1")
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("some.lock: ")
