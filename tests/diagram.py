"""The stages and their transitions as a document.

`python -m tests.diagram` writes docs/architecture/stages.md from `domain/stages.py` alone, so the
picture cannot differ from the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from domain.stages import TRANSITIONS, Guard, Stage, Transition

PATH = Path(__file__).resolve().parent.parent / "docs" / "architecture" / "stages.md"

_TEXT = """# Stages of a payment

`python -m tests.diagram` writes this page from the table in
[domain/stages.py](../../domain/stages.py), and a test compares them.

Each arrow is labelled with a *fact*: something that the service learned about the payment. If a
stage has no arrow for a fact, the fact does not change the stage. The fact is recorded, and the
payment is flagged if the fact contradicts the stage.

* A send is *accounted for* if we know that it moved no money.
* An attempt *cannot have acted* if it is proved that Daraja did nothing about it.
* `claim_lost`: the database lost the claim of a send, for example in a failover. The worker of that
  send stored Daraja's answer later.

```mermaid
stateDiagram-v2
{edges}
```

| stage | means | callers see |
|---|---|---|
{stages}

| stage | fact | next stage | if | otherwise |
|---|---|---|---|---|
{transitions}
"""


def document() -> str:
    """The whole of stages.md."""
    return _TEXT.format(
        edges="\n".join(_edges()), stages="\n".join(_stages()), transitions="\n".join(_rows())
    )


def _all_transitions() -> Iterator[tuple[Stage, str, Transition]]:
    for stage in Stage:
        for fact, transition in TRANSITIONS[stage].items():
            yield stage, fact.value, transition


def _edges() -> Iterator[str]:
    yield f"    [*] --> {Stage.ACCEPTED.value}"
    for stage, fact, transition in _all_transitions():
        condition = "" if transition.guard is Guard.ALWAYS else f", if {transition.guard.value}"
        yield f"    {stage.value} --> {transition.to.value}: {fact}{condition}"
        if transition.otherwise is not None:
            yield f"    {stage.value} --> {transition.otherwise.value}: {fact}, otherwise"


def _stages() -> Iterator[str]:
    # Each stage's sentence is the comment above it.
    source = inspect.getsource(Stage)
    found = re.findall(r'^    # (.+)\n    [A-Z_]+ = "(\w+)"$', source, re.MULTILINE)
    sentences = {stage: sentence for sentence, stage in found}
    for stage in Stage:
        yield f"| `{stage.value}` | {sentences[stage.value]} | `{stage.public_status}` |"


def _rows() -> Iterator[str]:
    for stage, fact, transition in _all_transitions():
        condition = "" if transition.guard is Guard.ALWAYS else transition.guard.value
        otherwise = ""
        if transition.guard is not Guard.ALWAYS:
            otherwise = (
                "stays" if transition.otherwise is None else f"`{transition.otherwise.value}`"
            )
        yield f"| `{stage.value}` | {fact} | `{transition.to.value}` | {condition} | {otherwise} |"


if __name__ == "__main__":
    PATH.write_text(document())
