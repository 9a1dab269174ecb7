"""`make bench`: what the service does in a second and what that costs, beside floors and a peer.

The figures of one machine say little about another, so each figure stands beside the floor, a plain
service, and, with `--base`, an old commit, all measured in the same run and in turns. PostgreSQL is
durable here (fsync on), as in production. A slow run does not fail, because other load on the
machine may be the cause. docs/performance/README.md explains the cases and the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import uvloop

from tests.benchmarks.cases.common import Options
from tests.benchmarks.cases.table import CASES, USUAL
from tests.benchmarks.figures import OURS, Table
from tests.benchmarks.floors import FLOORS
from tests.benchmarks.peers import Peers
from tests.benchmarks.subject import Source, unpacked
from tests.paths import ROOT


async def run(names: list[str], sources: list[Source], turns: int, options: Options) -> Table:
    """Measures each case of each source in turns."""
    table = Table(next((source.name for source in sources if source.name != OURS), None))
    for turn in range(1, turns + 1):
        for name in names:
            if name in FLOORS:
                say(f"turn {turn}: {name}, floors")
                async with Peers() as peers:
                    for column, figures in (await FLOORS[name](peers, options)).items():
                        table.add(column, figures)
            # Each source is first in every other turn.
            for source in sources if turn % 2 else reversed(sources):
                say(f"turn {turn}: {name}, {source.name}")
                table.add(source.name, await CASES[name](source, options))
    return table


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--base", metavar="COMMIT", help="also measure this commit")
    parser.add_argument("--cases", default=",".join(USUAL), help=f"of {', '.join(CASES)}")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load runs")
    parser.add_argument("--lives", type=int, default=2000, help="how many withdrawals to make")
    parser.add_argument("--rate", type=float, default=60.0, help="lives a second of `delays`")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[10_000, 1_000_000],
        help="the payments in the database of `growth`",
    )
    parser.add_argument(
        "--web-processes", type=int, default=1, help="WEB_CONCURRENCY of our web process"
    )
    parser.add_argument(
        "--statements", action="store_true", help="print what PostgreSQL spends on each statement"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases.split(",") if name not in CASES]
    if unknown:
        parser.error(f"unknown case: {', '.join(unknown)}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    options = Options(
        arguments.seconds,
        arguments.lives,
        arguments.rate,
        has_statements=arguments.statements,
        sizes=arguments.sizes,
        web_processes=arguments.web_processes,
    )
    with ExitStack() as stack:
        sources = [Source(OURS, ROOT)]
        if arguments.base:
            sources.insert(0, stack.enter_context(unpacked(arguments.base)))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        names = arguments.cases.split(",")
        table = runner.run(run(names, sources, arguments.turns, options))
    sys.stdout.write(table.to_markdown() + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(table.to_json(), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
