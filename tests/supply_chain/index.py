"""What a package index knows of vulnerabilities, told honestly: "nothing known" is not "nothing told".

pip-audit reads an index's answers well, but asks one address only, takes an answer without the member
`vulnerabilities` for "none", and waits as long as it takes. Here its service gets another session: it asks the index
that pip is configured with (that one and no other), refuses what tells nothing, and ends. Where an index has no page
for a version, its page for the project counts if that is about the same version.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import requests
from packaging.version import InvalidVersion, Version
from pip_audit._service.interface import (
    Dependency,
    ResolvedDependency,
    ServiceError,
    SkippedDependency,
    VulnerabilityResult,
)
from pip_audit._service.pypi import PyPIService

# Vulnerable for certain: an index that knows nothing of any of them knows nothing. The last has no remedy, so it is
# in the newest version too, of which an index tells that has pages for projects only.
KNOWN_VULNERABLE = (("jinja2", "2.10"), ("python-jose", "3.3.0"), ("ecdsa", "0.19.2"))
UNREACHABLE = "the index cannot be reached"
NOT_IN_TIME = "the index did not answer in time"

_CONNECTIONS = 8
_ANSWER_SECONDS = 5.0
# For all packages together; for those above together.
_AUDIT_SECONDS = 30.0
_PROOF_SECONDS = 10.0
_PAGE = re.compile(r"https://[^/]+(/pypi/([^/]+))/([^/]+)/json")

Told = tuple[Dependency, list[VulnerabilityResult]]


class NothingTold(Exception):
    """The index told nothing of a version; the message says how."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """How pip reaches its index. Without `index_url`: pip's own default, which pip-audit asks as well."""

    index_url: str | None = None
    certificates: str | None = None
    proxy: str | None = None


def configuration_of_pip() -> Configuration:
    """What pip was told by its files and the environment. Raises NothingTold where pip may use no index at all."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        if match := re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.+)", line):
            found.setdefault(match[1], {})[match[2]] = str(ast.literal_eval(match[3]))
    merged = {**found.get("global", {}), **found.get("install", {}), **found.get(":env:", {})}
    if merged.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        raise NothingTold("pip is configured to use no index")
    return Configuration(merged.get("index-url"), merged.get("cert"), merged.get("proxy"))


class _Session:
    """Sends pip-audit's questions to the configured index, and lets through only answers that tell something."""

    def __init__(self, configuration: Configuration) -> None:
        self._index_url = configuration.index_url
        self._requests = requests.Session()
        self._requests.max_redirects = 5
        if configuration.certificates:
            self._requests.verify = configuration.certificates
        if configuration.proxy:
            self._requests.proxies = {"http": configuration.proxy, "https": configuration.proxy}

    def get(self, url: str, timeout: float) -> requests.Response:
        """The page for a version. Raises NothingTold."""
        match = _PAGE.fullmatch(url)
        assert match, "pip-audit asks in another way than it did"
        version_path, project_path, version = f"{match[1]}/{match[3]}/json", f"{match[1]}/json", match[3]
        try:
            response = self._requests.get(self._address(url, version_path), timeout=timeout)
            if response.status_code == requests.codes.not_found:
                response = self._requests.get(self._address(url, project_path), timeout=timeout)
        except (requests.ConnectionError, requests.Timeout):
            raise NothingTold(UNREACHABLE) from None
        except requests.RequestException as error:
            raise NothingTold(f"the index cannot be asked ({type(error).__name__})") from None
        _require_word(response, version)
        return response

    def _address(self, default: str, path: str) -> str:
        if self._index_url is None:
            return default.partition("/pypi/")[0] + path
        return self._index_url.rstrip("/").removesuffix("/simple") + path


def _require_word(response: requests.Response, version: str) -> None:
    """Refuses, as NothingTold, an answer that says nothing about the vulnerabilities of `version`."""
    if response.status_code == requests.codes.not_found:
        raise NothingTold("the index has no page for it")
    if response.status_code != requests.codes.ok:
        raise NothingTold(f"the index answered with status {response.status_code}")
    try:
        page = response.json()
        about = Version(page["info"]["version"])
        known = page.get("vulnerabilities")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NothingTold("the index's page for it cannot be read") from None
    if about != Version(version):
        raise NothingTold("the index tells of another version only")
    if not isinstance(known, list):
        raise NothingTold("the index gives no data")


class Index(PyPIService):
    """The configured index as one of pip-audit's services. Times are in seconds."""

    def __init__(
        self, configuration: Configuration, *, answer_seconds: float = _ANSWER_SECONDS, all_seconds: float | None = None
    ) -> None:
        # Not its parent's: that one makes a cache, and what an index said yesterday is no word of today.
        self.session: Any = _Session(configuration)
        self.timeout: Any = answer_seconds
        self._audit_seconds = all_seconds or _AUDIT_SECONDS
        self._proof_seconds = all_seconds or _PROOF_SECONDS

    def query(self, spec: Dependency) -> Told:
        """What is known of one version; skipped, with the reason, where nothing was told."""
        try:
            return super().query(spec)
        except NothingTold as error:
            return SkippedDependency(spec.name, str(error)), []
        except (ServiceError, InvalidVersion, ValueError, TypeError, KeyError, AttributeError):
            return SkippedDependency(spec.name, "the index's word on it cannot be read"), []

    def query_all(self, specs: Iterator[Dependency]) -> Iterator[Told]:
        """Each of `specs` once, several at a time. What has no answer when the time is over is skipped."""
        return self._all([*specs], self._audit_seconds)

    def ignorance(self) -> str | None:
        """Why an empty list from this index means nothing, or None: it was seen to know a vulnerability."""
        known = [ResolvedDependency(name, Version(version)) for name, version in KNOWN_VULNERABLE]
        told = [*self._all(known, self._proof_seconds)]
        if any(vulnerabilities for _, vulnerabilities in told):
            return None
        reasons = {spec.skip_reason for spec, _ in told if isinstance(spec, SkippedDependency)}
        if len(reasons) == 1 and reasons <= {UNREACHABLE, NOT_IN_TIME}:
            return reasons.pop()
        return "the index gives no data: it knows nothing of vulnerabilities that everybody knows"

    def _all(self, specs: list[Dependency] | list[ResolvedDependency], seconds: float) -> Iterator[Told]:
        ends_at = time.monotonic() + seconds
        waiting: SimpleQueue[int] = SimpleQueue()
        answers: SimpleQueue[tuple[int, Told | Exception]] = SimpleQueue()
        for number in range(len(specs)):
            waiting.put(number)

        def ask() -> None:
            with suppress(Empty):
                while True:
                    number = waiting.get_nowait()
                    try:
                        answers.put((number, self.query(specs[number])))
                    except Exception as error:  # noqa: BLE001 - raised below, where somebody hears it
                        answers.put((number, error))

        # Not an executor: that one waits for its threads, and one may hang on a name server or a byte a minute.
        for _ in range(min(_CONNECTIONS, len(specs))):
            threading.Thread(target=ask, daemon=True).start()
        unanswered = dict(enumerate(specs))
        while unanswered:
            try:
                number, answer = answers.get(timeout=max(0.0, ends_at - time.monotonic()))
            except Empty:
                break
            if isinstance(answer, Exception):
                raise answer
            del unanswered[number]
            yield answer
        for spec in unanswered.values():
            yield SkippedDependency(spec.name, NOT_IN_TIME), []
