"""`python -m tests.proof.crash --table`: print the table of crash points and write its document."""

from __future__ import annotations

import argparse
import sys

from tests.proof.crash.document import PATH, text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.crash", description=__doc__)
    parser.add_argument(
        "--table", action="store_true", required=True, help=f"print it and write {PATH.name}"
    )
    parser.parse_args()
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text())
    sys.stdout.write(text())


if __name__ == "__main__":
    main()
