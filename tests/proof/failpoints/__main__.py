"""`FAILPOINT=point:action python -m tests.proof.failpoints workers`: the real process, armed.

FAILPOINT_WITHOUT names a check to remove. One of the two variables is enough. Afterwards the
product's own `main` runs.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import sys

from domain.adapters.postgres.functions import Function
from tests.proof.failpoints.arming import Arming, arm, found, take_away
from tests.proof.failpoints.points import CHECKS, FailpointError
from tests.proof.failpoints.without import install


def main() -> None:
    arming, check = os.environ.pop("FAILPOINT", ""), os.environ.pop("FAILPOINT_WITHOUT", "")
    if not arming and not check:
        sys.exit("failpoints: neither FAILPOINT nor FAILPOINT_WITHOUT is set")
    try:
        if arming:
            arm(Arming.read(arming))
        if check:
            take_away(check)
            replacement = found(CHECKS[check].target)[2]
            if isinstance(replacement, Function):
                # The SQL is in the database, so this process needs the other function there.
                asyncio.run(install(replacement, os.environ["DATABASE_URL"]))
    except FailpointError as error:
        sys.exit(f"failpoints: {error}")
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
