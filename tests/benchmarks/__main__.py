"""`make bench`: accepted payments and whole lives of payments per second, each beside a floor.

A floor is the speed of the same work without our code, measured in the same run. The figures of one
machine say little about another. The ratios show how much our own code costs. PostgreSQL is durable
here (fsync on), as in production. A slow run does not fail, because other load on the machine may
be the cause.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from functools import partial
from uuid import uuid4

import asyncpg
import uvloop

from tests.benchmarks.floors import arq_jobs_per_second
from tests.benchmarks.load import post, requests_per_second, send_all
from tests.paths import ROOT
from tests.stack.ports import reserve_port
from tests.stack.processes import Process
from tests.stack.stack import Stack

_ENVIRONMENT = {"DARAJA_REQUESTS_PER_SECOND": "100000", "LOG_LEVEL": "INFO"}


async def run(seconds: float, connections: int, lives: int) -> None:
    say(f"{connections} connections, {seconds:g} s each; one process of each kind; fsync on\n")
    async with Stack(fast=False, time_scale=0.001, env=_ENVIRONMENT) as stack:
        ours = await whole_lives(stack, lives)
        arq = await arq_jobs_per_second(stack.redis_url, jobs=2000)
        remark = f"({lives} of {lives} succeeded)"
        say_rate("whole lives: withdrawals from request to event", ours, remark)
        say_rate("  floor: arq jobs that do nothing, one worker", arq, f"ratio {ours / arq:.2f}")
        # The worker stops first, so that it does not slow down the accepts.
        await stack.stop_process("worker")
        await accepts(stack, seconds, connections)


async def accepts(stack: Stack, seconds: float, connections: int) -> None:
    port = reserve_port()
    floor_url = f"http://127.0.0.1:{port}"
    floors = Process(
        "floors",
        f"python -m tests.benchmarks.floors {stack.database_url} {port}",
        env=stack.env("release"),
        log=stack.folder / "floors.log",
        cwd=ROOT,
    )
    await floors.start()
    await floors.wait_logged("ready")
    measure = partial(requests_per_second, seconds=seconds, connections=connections)
    body = json.dumps({"amount": 250, "phone_number": "0711000111"}).encode()
    tokens = [stack.issuer.user_token(str(uuid4())) for _ in range(connections)]

    def deposit(number: int) -> bytes:
        """A deposit of one of many users, each with its own limits and phone."""
        headers = {
            "Authorization": f"Bearer {tokens[number % connections]}",
            "X-Idempotency-Key": uuid4().hex,
        }
        own_body = json.dumps(
            {"amount": 250, "phone_number": f"07{number % 100_000_000:08}"}
        ).encode()
        return post(stack.web_url, "/v1/deposits", own_body, headers)

    bare = await measure(floor_url, lambda _: post(floor_url, "/bare", body, {}))
    insert = await measure(floor_url, lambda _: post(floor_url, "/insert", body, {}))
    ours = await measure(stack.web_url, deposit)
    await floors.terminate()
    say("")
    say_rate("accepted payments (token, key, history, 202)", ours)
    for floor, rate in (
        ("aiohttp that answers 202 and does nothing", bare),
        ("aiohttp with one durable insert a request", insert),
    ):
        say_rate(f"  floor: {floor}", rate, f"ratio {ours / rate:.2f}")


async def whole_lives(stack: Stack, lives: int) -> float:
    token = stack.issuer.backend_token()
    requests = []
    for number in range(lives):
        body = json.dumps(
            {"amount": 10 + number % 1000, "phone_number": f"07{10_000_000 + number}"}
        ).encode()
        headers = {"Authorization": f"Bearer {token}", "X-Idempotency-Key": uuid4().hex}
        requests.append(post(stack.web_url, "/v1/withdrawals", body, headers))
    connection = await asyncpg.connect(stack.database_url)
    began_at = time.monotonic()
    await send_all(stack.web_url, requests, connections=32)
    while True:
        row = await connection.fetchrow(
            "SELECT count(*) FILTER (WHERE stage = 'succeeded') AS succeeded FROM mkwanja.payments"
        )
        if row["succeeded"] == lives:
            break
        if time.monotonic() - began_at > 120:
            sys.exit(f"only {row['succeeded']} of {lives} withdrawals succeeded within 120 s")
        await asyncio.sleep(0.02)
    elapsed = time.monotonic() - began_at
    await connection.close()
    return lives / elapsed


def say_rate(text: str, per_second: float, remark: str = "") -> None:
    say(f"{text:<55} {per_second:8,.0f} /s   {remark}".rstrip())


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load runs")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--lives", type=int, default=2000, help="how many withdrawals to make")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments.seconds, arguments.connections, arguments.lives))


if __name__ == "__main__":
    main()
