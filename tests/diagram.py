"""The stages and their transitions as a document: `python -m tests.diagram` writes
docs/architecture/stages.md anew.

Made from `domain/stages.py` alone, so that the picture cannot say something else than the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from domain.stages import TRANSITIONS, Guard, Stage, Transition

PATH = Path(__file__).resolve().parent.parent / "docs" / "architecture" / "stages.md"

_TEXT = """# Stages of a payment

Written by `python -m tests.diagram` from the one table in [domain/stages.py](../../domain/stages.py); a test compares them.
What is not drawn changes nothing: it is recorded, and flagged where it contradicts.

```mermaid
stateDiagram-v2
{edges}
```

| stage | means | callers see |
|---|---|---|
{stages}

| stage | learned | leads to | if | otherwise |
|---|---|---|---|---|
{rules}
"""


def document() -> str:
    """The whole of stages.md."""
    return _TEXT.format(
        edges="\n".join(_edges()), stages="\n".join(_stages()), rules="\n".join(_rules())
    )


def _all_rules() -> Iterator[tuple[Stage, str, Transition]]:
    for stage in Stage:
        for fact, rule in TRANSITIONS[stage].items():
            yield stage, fact.value, rule


def _edges() -> Iterator[str]:
    yield f"    [*] --> {Stage.ACCEPTED.value}"
    for stage, fact, rule in _all_rules():
        condition = "" if rule.guard is Guard.ALWAYS else f", if {rule.guard.value}"
        yield f"    {stage.value} --> {rule.to.value}: {fact}{condition}"
        if rule.otherwise is not None:
            yield f"    {stage.value} --> {rule.otherwise.value}: {fact}, otherwise"


def _stages() -> Iterator[str]:
    # The sentences stand beside the stages, as comments: they are the contract, and not data.
    source = inspect.getsource(Stage)
    found = re.findall(r'^    # (.+)\n    [A-Z_]+ = "(\w+)"$', source, re.MULTILINE)
    sentences = {stage: sentence for sentence, stage in found}
    for stage in Stage:
        yield f"| `{stage.value}` | {sentences[stage.value]} | `{stage.public_status}` |"


def _rules() -> Iterator[str]:
    for stage, fact, rule in _all_rules():
        condition = "" if rule.guard is Guard.ALWAYS else rule.guard.value
        otherwise = ""
        if rule.guard is not Guard.ALWAYS:
            otherwise = "stays" if rule.otherwise is None else f"`{rule.otherwise.value}`"
        yield f"| `{stage.value}` | {fact} | `{rule.to.value}` | {condition} | {otherwise} |"


if __name__ == "__main__":
    PATH.write_text(document())
