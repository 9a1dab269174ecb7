"""`doctor`: whether the service can work here, and what to repair."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from workers.commands.arguments import add_json
from workers.commands.command import DONE, REFUSED, Call, Command
from workers.doctor.findings import State
from workers.doctor.running import run_checks
from workers.doctor.settings import PROCESSES


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--process",
        action="append",
        choices=list(PROCESSES),
        help="check only what this process needs (default: all three); may be repeated",
    )
    add_json(parser)


async def _run(call: Call) -> int:
    findings = await run_checks(tuple(dict.fromkeys(call.arguments.process or PROCESSES)))
    has_failed = any(finding.state is State.FAILED for finding in findings)
    if call.output.is_json:
        checks = [asdict(finding) for finding in findings]
        call.output.print_json({"is_ok": not has_failed, "checks": checks})
        return REFUSED if has_failed else DONE
    call.output.print_table(
        ("state", "check", "found"),
        [
            (
                finding.state.value,
                finding.check,
                finding.text + (f". {finding.remedy}" if finding.remedy else ""),
            )
            for finding in findings
        ],
    )
    return REFUSED if has_failed else DONE


DOCTOR = Command(
    "doctor",
    "check the settings, and every server that the service needs",
    _add_arguments,
    _run,
    needs_database=False,
)
