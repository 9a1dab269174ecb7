"""`python -m tests.supply_chain` judges the lock: one line for the audit, one for the licences, and what is red before them."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.supply_chain.audit import Audit, Lock, audit
from tests.supply_chain.index import Index, NothingTold, configuration_of_pip
from tests.supply_chain.licences import deployed, inspect, installed
from tests.supply_chain.policy import POLICY, ROOT, PolicyUnreadable, read_policy


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.supply_chain", description=__doc__)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("--seconds", type=float, help="how long the index may take for everything (default: 40)")
    given = parser.parse_args()
    today = datetime.now(UTC).date()
    try:
        policy, lock = read_policy(given.policy), Lock(given.lock)
        versions = lock.versions()
    except (PolicyUnreadable, OSError, ValueError) as error:
        sys.exit(str(error))
    inspection = inspect(set(versions), installed(), deployed(ROOT / "pyproject.toml"), policy, today=today)
    try:
        audited = audit(
            lock, Index(configuration_of_pip(), all_seconds=given.seconds), policy.vulnerability_exceptions, today=today
        )
    except NothingTold as error:
        audited = Audit(total=len(versions), not_audited=dict.fromkeys(versions, str(error)))
    for line in [*inspection.red, *audited.red, inspection.summary(), audited.summary()]:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
    sys.exit(1 if inspection.red or audited.red else 0)


if __name__ == "__main__":
    main()
