"""Runs schemathesis by its command line against a running system, and counts the answers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.spec.system import System

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass
class Run:
    """The result of one run: its report, and how often each operation answered with each status."""

    exit_status: int
    report: str
    answers: Counter[tuple[str, int]] = field(
        default_factory=Counter
    )  # by "GET /v1/payments" and status
    checks: Counter[str] = field(default_factory=Counter)
    seconds: Counter[tuple[str, str]] = field(default_factory=Counter)  # by phase and operation

    @property
    def requests(self) -> int:
        return self.answers.total()

    def statuses(self, operation: str) -> set[int]:
        """The statuses that `operation` answered with."""
        return {status for name, status in self.answers if name == operation}

    def table(self) -> str:
        """A table of the operations and how often each answered with each status."""
        names = sorted({name for name, _ in self.answers})
        lines = [
            f"{name:40} "
            + "  ".join(f"{s}:{n}" for (o, s), n in sorted(self.answers.items()) if o == name)
            for name in names
        ]
        return "\n".join([f"{self.requests} requests, {self.checks.total()} checks", *lines])


async def schemathesis(system: System, identity: str, folder: Path, *options: str) -> Run:
    """One run over all of `/openapi.json`.

    `identity`: `backend`, or `users` for two users that may not see each other's data.
    """
    config, events = folder / f"{identity}.toml", folder / f"{identity}.ndjson"
    config.write_text(
        (HERE / "schemathesis.toml").read_text() + _authorization(system, identity, folder)
    )
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *(
            "--config-file",
            str(config),
            "run",
            f"{system.stack.web_url}/openapi.json",
            "--no-color",
        ),
        *("--report", "ndjson", "--report-ndjson-path", str(events), *options),
        cwd=ROOT,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
            "FUZZ_IDENTITY": identity,
            "PYTHONPATH": str(ROOT),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    run = Run(process.returncode or 0, output.decode(errors="replace"))
    for line in events.read_text().splitlines() if events.exists() else ():
        event = json.loads(line)
        if "ScenarioFinished" in event:
            _count(run, event["ScenarioFinished"])
    return run


def _count(run: Run, scenario: dict[str, Any]) -> None:
    recorder = scenario.get("recorder") or {}
    cases = recorder.get("cases", {})
    for case_id, interaction in recorder.get("interactions", {}).items():
        case = cases[case_id]["value"]
        answer = interaction.get("response") or {}
        run.answers[f"{case['method']} {case['path']}", answer.get("status_code", 0)] += 1
    for checks in recorder.get("checks", {}).values():
        run.checks.update(check["name"] for check in checks)
    run.seconds[scenario["phase"], str(recorder.get("label"))] += scenario["elapsed_time"]


def _authorization(system: System, identity: str, folder: Path) -> str:
    """The part of the configuration with the tokens."""
    issuer = system.stack.issuer
    if identity == "backend":
        return f'\n[auth.openapi]\nbearer = {{ bearer = "{issuer.backend_token()}" }}\n'
    peers = {name: issuer.user_token(sub) for name, sub in PEERS.items()}
    file = folder / "peers.json"
    entries = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}
        for name, token in peers.items()
    ]
    file.write_text(json.dumps({"auth": entries}))
    return f'\n[auth.wfc]\npath = "{file}"\npeers = {json.dumps(list(peers))}\n'


# Two of the app's users. Neither may see the other's data.
PEERS = {
    "amina": "7f6a1c7e-52cb-4b0e-9f53-0c2b8f1d4a11",
    "baraka": "7f6a1c7e-52cb-4b0e-9f53-0c2b8f1d4a12",
}
