"""Lua scripts: how they run in Redis, and the first line of those that a full Redis must run too.

A full Redis (`noeviction`) rejects each write, and each script that may write. A send needs some of
our scripts. `allow-oom` lets these scripts run. They store a few short keys that expire. Together
these keys use less memory than one connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoScriptError

ALSO_WHEN_FULL = "#!lua flags=allow-oom\n"


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script, and the digest by which Redis knows it after its first run."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One run of a script."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int]


async def run_scripts(redis: Any, calls: Sequence[ScriptCall]) -> list[Any]:
    """Runs the calls in order, in one round trip. Raises the first error of redis-py.

    The calls name their scripts by digest. Redis forgets its scripts when it restarts. Then the
    calls run in a second round trip, with their whole texts.
    """
    results = await _run(redis, calls, has_texts=False)
    unknown = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
    if unknown:
        again = await _run(redis, [calls[index] for index in unknown], has_texts=True)
        for index, result in zip(unknown, again, strict=True):
            results[index] = result
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


async def _run(redis: Any, calls: Sequence[ScriptCall], *, has_texts: bool) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipeline:
        for call in calls:
            if has_texts:
                pipeline.eval(call.script.text, len(call.keys), *call.keys, *call.arguments)
            else:
                pipeline.evalsha(call.script.digest, len(call.keys), *call.keys, *call.arguments)
        return list(await pipeline.execute(raise_on_error=False))
