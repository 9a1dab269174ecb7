"""The commands and programs that the documents show, and the test that plays each of them.

A snippet is a fenced block with a language. Messages (json), pictures (mermaid) and printed output
(no language) are no snippets.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.paths import ROOT, name

_FENCED = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_NOT_PLAYED = {"json", "mermaid"}
_DOCUMENTS = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))

_COMMANDS = "tests/spec/test_documented_commands.py"


@dataclass(frozen=True, slots=True)
class Snippet:
    """One block. `document` is its path in the repository."""

    document: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The commands of a shell block, without comments. A line that ends with `\\` continues."""
        whole = re.sub(r"\\\n\s*", " ", self.text)
        lines = (re.sub(r"\s+#.*", "", line).strip() for line in whole.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


# What plays a snippet: its language, a pattern that its text begins with, and the test.
_PLAYED = (
    (
        "sh",
        r"make ",
        "tests/test_documents.py::test_every_make_target_that_a_document_names_exists",
    ),
    ("sh", r"curl -o openapi", "tests/integration/test_typed_client.py"),
    ("sh", r"curl ", f"{_COMMANDS}::test_every_curl_line_of_the_documents_gets_an_answer"),
    ("sh", r"python -m workers ", f"{_COMMANDS}::test_every_command_of_an_operator_runs"),
    ("sh", r"python -m workers.backup ", "tests/integration/test_backup.py"),
    ("sql", r"CREATE ROLE mkwanja_service", "tests/integration/service_role.py"),
    ("sql", r"", f"{_COMMANDS}::test_every_sql_statement_of_the_documents_runs"),
    ("python", r"# mint.py", "tests/test_documents.py::test_the_shown_program_mints_a_token"),
    ("python", r"# pay.py", "tests/integration/test_typed_client.py"),
    (
        "python",
        r"import json\n\nfrom standardwebhooks",
        "tests/unit/test_webhook_signing.py::test_the_shown_receiver_accepts_each_event_once",
    ),
    (
        "js",
        r"const response = await fetch",
        f"{_COMMANDS}::test_the_shown_program_reads_a_stream_of_events",
    ),
    ("sh", r"OTEL_EXPORTER_OTLP_ENDPOINT=", "tests/spec/test_traces.py"),
    ("toml", r"", "tests/test_documents.py::test_the_shown_policy_is_a_policy"),
)

# What a snippet needs that no test has.
_NEEDED = (
    ("js", r"const \{ data(:|) ", "Supabase"),
    ("sh", r"docker |install --directory", "a daemon of Docker (tests/deployment plays the parts)"),
    ("sh", r"useradd|systemctl|cd /srv|systemd-run", "a machine with systemd, as root"),
)


@cache
def snippets() -> tuple[Snippet, ...]:
    """All snippets of the documents."""
    return tuple(
        Snippet(name(path), found[2], textwrap.dedent(found[3]))
        for path in sorted(_DOCUMENTS)
        for found in _FENCED.finditer(path.read_text())
        if found[2] not in _NOT_PLAYED
    )


def shell_lines(beginning: str) -> list[str]:
    """All different command lines that begin so."""
    lines = (line for each in snippets() if each.language == "sh" for line in each.lines)
    return sorted({line for line in lines if line.startswith(beginning)})


def find_test(snippet: Snippet) -> str | None:
    """The test that plays the snippet, or what the snippet needs. None: neither is known."""
    for rules in (_PLAYED, _NEEDED):
        for language, beginning, answer in rules:
            if snippet.language == language and re.match(beginning, snippet.text):
                return answer
    return None


def playing_tests() -> list[tuple[Path, str]]:
    """The files of the tests that play snippets, with the name of a test or an empty text."""
    return [
        (ROOT / file, test)
        for _, _, played in _PLAYED
        for file, _, test in [played.partition("::")]
    ]
