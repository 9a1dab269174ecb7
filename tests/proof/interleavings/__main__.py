"""`python -m tests.proof.interleavings --runs 1000000 --seed 1`: exits 1 if a law was broken.

`--replay SEED` shows one life step by step.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import Pool

from tests.proof.interleavings.tally import Tally, replay, tally

_CHUNK = 2000


def main() -> int:
    arguments = _arguments()
    if arguments.replay is not None:
        sys.stdout.writelines(f"{line}\n" for line in replay(arguments.replay))
        return 0
    begun = time.monotonic()
    total = _total(arguments.seed, arguments.runs, arguments.processes)
    lines = _lines(total, time.monotonic() - begun, arguments.processes)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if total.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof.interleavings", description=__doc__
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1, help="the first seed; each run has the next")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--replay", type=int, metavar="SEED", help="show one run step by step")
    return parser.parse_args()


def _total(first: int, runs: int, processes: int) -> Tally:
    end = first + runs
    chunks = [range(at, min(at + _CHUNK, end)) for at in range(first, end, _CHUNK)]
    total = Tally()
    with Pool(processes, initializer=gc.freeze) as pool:
        for part in pool.imap_unordered(tally, chunks):
            total.add(part)
    return total


def _lines(total: Tally, seconds: float, processes: int) -> Iterator[str]:
    distinct = len(set(total.paths))
    yield f"{total.runs:,} runs, {total.events:,} steps, {distinct:,} distinct interleavings"
    yield f"{seconds:.0f} s on {processes} processes: {total.runs / seconds:,.0f} runs a second"
    yield "endings:"
    yield from (
        f"{count:>10,}  {ending} (as seed {total.first[ending]})"
        for ending, count in total.endings.most_common()
    )
    yield "covered:"
    yield from (f"{count:>10,}  {' '.join(key)}" for key, count in sorted(total.seen.items()))
    yield from (f"NEVER SEEN: {' '.join(key)}" for key in total.unseen)
    yield f"violations: {total.broken.total():,}"
    for what, count in total.broken.most_common():
        yield f"{count:>10,}  {what}"
        yield from (f"{'':>12}--replay {seed}" for seed in total.seeds[what])


if __name__ == "__main__":
    sys.exit(main())
