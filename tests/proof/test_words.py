"""The words of the proofs: each class in the table of README.md exists."""

from __future__ import annotations

import re

from tests.paths import ROOT

PROOF = ROOT / "tests" / "proof"


def test_every_class_in_the_table_of_words_exists() -> None:
    table = PROOF.joinpath("README.md").read_text().partition("## Words")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)", table))
    files = [*PROOF.rglob("*.py"), *(ROOT / "tests" / "spec").glob("*.py")]
    classes = {name for file in files for name in re.findall(r"(?m)^class (\w+)", file.read_text())}
    assert len(named) > 20
    assert named - classes == set()
