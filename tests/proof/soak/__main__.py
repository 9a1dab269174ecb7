"""`python -m tests.proof.soak --minutes 20 --seed 7`: exits 0 only if the run is good."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from tests.proof.soak.report import report
from tests.proof.soak.run import Options, soak
from tests.proof.soak.tampering import SPOILERS

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> int:
    """Run what the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long the load lasts (20)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10_000), help="what the plan is made from"
    )
    parser.add_argument("--kills-per-minute", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=12.0, help="payments a second (12)")
    parser.add_argument(
        "--patience", type=float, default=180.0, help="seconds to wait for ends afterwards (180)"
    )
    parser.add_argument(
        "--calm", action="store_true", help="no faults but the provider's: the load alone"
    )
    parser.add_argument("--report", type=Path, help="write the report there too, as Markdown")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and data")
    parser.add_argument(
        "--doctor",
        choices=SPOILERS,
        help="a drill: spoil the evidence so, and see the judge find it",
    )
    arguments = parser.parse_args()
    options = Options(
        minutes=arguments.minutes,
        seed=arguments.seed,
        kills_per_minute=arguments.kills_per_minute,
        payments_per_second=arguments.rate,
        patience_seconds=arguments.patience,
        has_faults=not arguments.calm,
        keep=arguments.keep,
    )
    if arguments.doctor:
        options = replace(options, doctor=SPOILERS[arguments.doctor])
    _say(f"soak of {options.minutes:g} minutes, seed {options.seed}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(soak(options, _say))
    except KeyboardInterrupt:
        _say(f"stopped; the seed was {options.seed}")
        return _INTERRUPTED
    except BaseException:
        _say(f"the seed was {options.seed}")
        raise
    text = report(outcome)
    sys.stdout.write(text + "\n")
    if arguments.report:
        arguments.report.write_text(text + "\n")
    if not outcome.is_good:
        _say(f"FAILED; the seed was {options.seed}")
    return 0 if outcome.is_good else 1


def _say(text: str) -> None:
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
