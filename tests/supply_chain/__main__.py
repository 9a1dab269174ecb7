"""`python -m tests.supply_chain` judges the lock file.

It prints a line for each red finding, then one line for each tool.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.supply_chain.audit import audit
from tests.supply_chain.licences import check_licences, installed_licences
from tests.supply_chain.policy import LOCK, POLICY, locked_versions, read_policy


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.supply_chain", description=__doc__)
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--policy", type=Path, default=POLICY)
    given = parser.parse_args()
    try:
        policy, versions = read_policy(given.policy), locked_versions(given.lock)
        unlicensed, licences = check_licences(versions, installed_licences(), policy.licences)
        audited = audit(versions, policy.vulnerability_exceptions, datetime.now(UTC).date())
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    sys.stdout.writelines(
        line + "\n" for line in [*unlicensed, *audited.red, licences, audited.summary()]
    )
    sys.exit(1 if unlicensed or audited.red else 0)


if __name__ == "__main__":
    main()
