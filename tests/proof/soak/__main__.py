"""`python -m tests.proof.soak --minutes 20 --seed 7`: exits 0 only if the run is good."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

import uvloop

from tests.proof.soak.report import report
from tests.proof.soak.run import Options, soak

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> int:
    """Run what the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.soak", description=__doc__)
    seed = random.randrange(10_000)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long the load lasts (20)")
    parser.add_argument("--seed", type=int, default=seed, help="the seed of the plan")
    parser.add_argument("--report", type=Path, help="write the report there too, as Markdown")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and data")
    arguments = parser.parse_args()
    options = Options(minutes=arguments.minutes, seed=arguments.seed, keep=arguments.keep)
    _say(f"soak of {options.minutes:g} minutes, seed {options.seed}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(soak(options, _say))
    except KeyboardInterrupt:
        _say("stopped")
        return _INTERRUPTED
    text = report(result) + "\n"
    sys.stdout.write(text)
    if arguments.report:
        arguments.report.write_text(text)
    return 0 if result.is_good else 1


def _say(text: str) -> None:
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
