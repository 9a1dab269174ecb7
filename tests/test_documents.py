"""Each program that a document shows runs, and each thing that a document names exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jwt

from domain.adapters.policy_file import read_policy
from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import ReleaseSettings
from domain.adapters.settings.web import IngressSettings
from domain.adapters.settings.worker import WorkerSettings
from tests.certificates import key_pem
from tests.layout import PRODUCT
from tests.paths import ROOT, name
from tests.sampling import COLLECTED
from tests.snippets import Snippet, find_test, playing_tests, snippets
from workers.commands.arguments import OneLineParser
from workers.commands.running import COMMANDS, add_commands

README = ROOT / "README.md"
USING = ROOT / "docs" / "using.md"
ARCHITECTURE = sorted((ROOT / "docs" / "architecture").glob("*.md"))
RUNBOOK = sorted((ROOT / "docs" / "runbook").glob("*.md"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])

# These words leave open who acts, or how many.
_VAGUE = re.compile(r"(?i)\b(?:whoever|(?:no|some|any)body|so (?:many|often)(?! that))\b")


def test_the_shown_program_mints_a_token_that_a_backend_can_use(tmp_path: Path) -> None:
    program = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert program is not None
    (tmp_path / "mint.py").write_text(program[1])
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "private-key.pem").write_bytes(key_pem(key))
    command = [sys.executable, "mint.py", "private-key.pem", "key-1", "https://issuer.example"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    token = printed.stdout.strip()
    public = jwk.construct(key_pem(key).decode(), "ES256").public_key()
    claims = jwt.decode(token, public, algorithms=["ES256"], audience="authenticated")
    assert claims["role"] == "service_role"
    assert claims.keys() >= {"iss", "aud", "exp", "sub", "role"}
    assert jwt.get_unverified_header(token)["kid"] == "key-1"


def test_the_shown_policy_is_a_policy(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", USING.read_text(), re.DOTALL)
    (tmp_path / "policy.toml").write_text(example)
    policy = read_policy(tmp_path / "policy.toml")
    limits = (policy.deposits_per_minute, policy.amount_max_kes, policy.confirm_above_kes)
    assert limits == (3, 70_000, 20_000)


def test_the_example_environment_names_every_setting_and_no_other() -> None:
    """.env.example has each variable that a process reads, set or commented out."""
    named = set(
        re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    read = {
        name.upper()
        for settings in (ReleaseSettings, IngressSettings, CallbackSettings, WorkerSettings)
        for name in settings.model_fields
    }
    assert named == read


def test_every_document_and_module_names_who_acts_and_how_many() -> None:
    """A text says "the caller" and "50 times", in place of "somebody" and "so often"."""
    vague = {
        name(path): found
        for path in [*DOCUMENTS, *PRODUCT]
        if (found := _VAGUE.findall(path.read_text()))
    }
    assert vague == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_of_a_document_leads_to_something_that_exists(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path.name != "daraja.md"],  # it names other repositories' files
    ids=name,
)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    """A path in backticks, also a pattern with `*`, names a file or folder of the repository."""
    folders = "domain|gateway|workers|tests|alembic|docs"
    named = re.findall(rf"`((?:{folders})/[\w./*-]*)(?:::\w+)?`", document.read_text())
    assert [path for path in named if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    """If the test of a guarantee is renamed or removed, this test fails."""
    named = set(re.findall(r"`(tests/\S+?\.py)::(\w+)`", document.read_text()))
    texts = {file: (ROOT / file).read_text() for file, _ in named if (ROOT / file).exists()}
    assert [pair for pair in named if f"def {pair[1]}(" not in texts.get(pair[0], "")] == []


@pytest.mark.parametrize("document", [ROOT / "CONTRIBUTING.md", *ARCHITECTURE], ids=name)
def test_every_name_of_code_that_a_document_uses_is_in_the_code(document: Path) -> None:
    """A name of code is a function, class or constant in backticks."""
    names = set(re.findall(r"`(?:\w+\.)*([A-Za-z_]\w{3,})`", document.read_text()))
    commits = {name for name in names if re.fullmatch(r"[0-9a-f]{7}", name)}
    files = [*PRODUCT, *(ROOT / "tests").rglob("*.py")]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text())}
    assert names - commits - words == set()


def test_every_promise_has_a_test_that_is_played(request: pytest.FixtureRequest) -> None:
    """`make test` plays at least one test of each line of the guarantees.

    A line is skipped if the files of its tests were not collected.
    """
    files, played = request.config.stash[COLLECTED]
    promises = [
        (line, set(re.findall(r"`(tests/\S+?\.py)::(\w+)`", line)))
        for line in (ROOT / "docs" / "guarantees" / "README.md").read_text().splitlines()
    ]
    assert sum(bool(tests) for _, tests in promises) > 50
    missed = [
        line
        for line, tests in promises
        if tests and {file for file, _ in tests} <= files and not tests & played
    ]
    assert missed == []


def test_the_command_line_accepts_every_command_that_the_runbook_shows() -> None:
    """The page of the commands has an example of each."""
    shown = {
        command.replace("\\\n", " ")
        for document in RUNBOOK
        for command in re.findall(
            r"(?:^ *|`)python -m workers ((?:\\\n|[^`\n])+)", document.read_text(), re.MULTILINE
        )
        if "…" not in command and "COMMAND" not in command and "|" not in command
    }
    parser, an_id = OneLineParser(), str(UUID(int=1))
    add_commands(parser)
    arguments = [
        parser.parse_args(shlex.split(re.sub(r"(PAYMENT|ENDPOINT)_ID", an_id, each)))
        for each in shown
    ]
    assert {each.command for each in arguments} == {command.name for command in COMMANDS}


@pytest.mark.parametrize(
    "snippet", snippets(), ids=lambda each: f"{each.document} {each.text[:40]!r}"
)
def test_every_snippet_of_a_document_is_played_or_says_what_it_needs(snippet: Snippet) -> None:
    """tests/snippets.py names the test, or what the snippet needs: Supabase, for example."""
    assert find_test(snippet) is not None


def test_every_test_that_plays_snippets_exists() -> None:
    missing = [
        (file, test)
        for file, test in playing_tests()
        if not file.exists() or f"def {test}" not in file.read_text()
    ]
    assert missing == []


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^ *)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, (document, named - targets)


def test_each_decision_has_the_number_of_its_file_and_no_other_has_it() -> None:
    """Two branches may take the same number. The later one must take the next."""
    decisions = sorted(ROOT.glob("docs/adr/*.md"))
    headings = [path.read_text().partition("\n")[0] for path in decisions]
    assert [heading.split()[1] for heading in headings] == [
        f"{number}." for number in range(1, len(decisions) + 1)
    ]
    assert [int(path.name.split("-")[0]) for path in decisions] == list(
        range(1, len(decisions) + 1)
    )


def test_every_commit_that_contributing_names_exists() -> None:
    named = re.findall(r"\| `([0-9a-f]{7,40})` \|", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    if _git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("this folder has no whole history")
    assert [hash_ for hash_ in named if _git("cat-file", "-t", hash_) != "commit"] == []


def _git(*arguments: str) -> str:
    """What git prints, or an empty text if it fails."""
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
