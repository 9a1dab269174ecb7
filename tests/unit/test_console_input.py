"""What the console makes of wrong input: tokens, parameters, addresses, refused decisions."""

from __future__ import annotations

import ast
import re

import pytest
from multidict import MultiDict

from domain.errors import FieldError, ResolutionRefused, TooLateToCancel, Unauthenticated
from domain.stages import Stage
from gateway.console.actions import describe_refusal
from gateway.console.faults import show_faults
from gateway.console.pasted_token import EmptyTokenError, read_pasted_token
from gateway.console.queries import read_query
from gateway.console.visits import local_path, page_of, sign_in_path
from tests.builders import a_payment
from tests.case_tables import for_each
from tests.paths import ROOT

_TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl-_"


@for_each(
    "pasted",
    [
        _TOKEN,
        f"  {_TOKEN}\r\n",
        f"Bearer {_TOKEN}",
        f"bearer\t{_TOKEN}",
        f"Authorization: Bearer {_TOKEN}",
        f'"{_TOKEN}"',
        f'"Bearer {_TOKEN}"',
        f"Bearer '{_TOKEN}'",
        f"<{_TOKEN}>",
        f"\ufeff{_TOKEN}\u200b",
        f"\u00a0{_TOKEN[:30]}\n    {_TOKEN[30:]}\u2028",
    ],
    ids=ascii,
)
def test_what_people_copy_along_with_a_token_is_dropped(pasted: str) -> None:
    assert read_pasted_token(pasted) == _TOKEN


@for_each(
    "pasted", ["", " \n", "Bearer", "Authorization: Bearer ", '""', "\u200b", "\0"], ids=ascii
)
def test_nothing_but_white_space_and_words_around_a_token_is_an_empty_token(pasted: str) -> None:
    with pytest.raises(EmptyTokenError):
        read_pasted_token(pasted)


@for_each(
    "pasted",
    [
        "nonsense",
        _TOKEN.rpartition(".")[0],
        f"{_TOKEN} {_TOKEN}.",
        f'{{"access_token": "{_TOKEN}"}}',
        f"Basic {_TOKEN}!",
        _TOKEN.replace("c2ln", "c2é"),
        "eyJ...",
        "••••••••",
    ],
    ids=ascii,
)
def test_a_text_that_is_no_token_is_refused_and_not_repeated(pasted: str) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        read_pasted_token(pasted)
    assert "has three parts, joined by dots" in refusal.value.message
    assert pasted not in refusal.value.message


# The parameters, what a page that knows `status` and `kind` reads, and the names of its faults.
_QUERIES: list[tuple[list[tuple[str, str]], dict[str, str], list[str]]] = [
    ([], {}, []),
    ([("status", "failed")], {"status": "failed"}, []),
    ([("status", ""), ("kind", "deposit")], {"kind": "deposit"}, []),
    ([("status", ""), ("status", "failed")], {"status": "failed"}, []),
    ([("status", "failed"), ("status", "failed")], {}, ["?status"]),
    ([("status", "failed"), ("kind", "x"), ("status", "success")], {"kind": "x"}, ["?status"]),
    ([("Status", "failed")], {}, ["?Status"]),
    ([("stauts", "failed"), ("kind", "deposit")], {"kind": "deposit"}, ["?stauts"]),
    ([("stauts", ""), ("odd", "1"), ("odd", "2")], {}, ["?odd"]),
    ([("", "x")], {}, ["?"]),
    ([("utm_source", "mail"), ("utm_id", "7"), ("fbclid", "x"), ("gclid", "y")], {}, []),
    ([("done", "x"), ("done", "y")], {}, []),
]


@for_each("parameters, read, wrong", _QUERIES)
def test_a_page_reads_the_parameters_that_it_knows_and_names_the_others(
    parameters: list[tuple[str, str]], read: dict[str, str], wrong: list[str]
) -> None:
    """Parameters of trackers are ignored, and so is the notice of an action."""
    query, faults = read_query(MultiDict(parameters), {"status", "kind"})
    assert (query, [fault.pointer for fault in faults]) == (read, wrong)


def test_a_fault_shows_the_given_value_masked_and_short() -> None:
    given = {"phone": "0711000111 again", "long": "x" * 100, "control": "a\nb", "who": "sealed"}
    faults = show_faults(
        [FieldError(f"?{name}", "is wrong") for name in given], given, {"long": "Long"}
    )
    assert [(fault.name, fault.given) for fault in faults] == [
        ("phone", "07******11 again"),
        ("Long", "x" * 60 + "…"),
        ("control", "a\\nb"),
        ("who", ""),
    ]


_ID = "01890000-0000-7000-8000-000000000000"


@for_each(
    "path, target",
    [
        ("/console", "/console"),
        ("/console?status=failed&period=7d", "/console?status=failed&period=7d"),
        ("/console?account_reference=INV+1", "/console?account_reference=INV+1"),
        ("/console?created_after=2026-03-01T07:15:00Z", None),
        (f"/console/payments/{_ID.upper()}", None),
        ("/console/sign-in", "/console"),
        ("/console/sign-out", "/console"),
        ("//evil.example", "/console"),
        ("/console/../v1", "/console"),
        ("/console\r\nSet-Cookie: x=y", "/console"),
        ("/consoles", "/console"),
        ("", "/console"),
    ],
    ids=ascii,
)
def test_a_sign_in_leads_back_to_a_page_of_the_console(path: str, target: str | None) -> None:
    assert local_path(path) == (path if target is None else target)
    assert re.fullmatch(r"[!-~]+", sign_in_path(path, after="form"))


@for_each(
    "path, page",
    [
        (f"/console/payments/{_ID}/cancel", f"/console/payments/{_ID}"),
        (f"/console/payments/{_ID}", f"/console/payments/{_ID}"),
        ("/console/brakes/operations/b2c/release", "/console/brakes"),
        ("/console/charts", "/console/charts"),
        ("/console/chartsome", "/console"),
        ("/console/search", "/console"),
        ("/console/payments/..%2f/x", "/console"),
    ],
)
def test_a_fault_of_a_form_leads_back_to_the_page_that_has_it(path: str, page: str) -> None:
    assert page_of(path) == page


def _refusal_texts() -> list[str]:
    """Every text of a refusal of a decision, with X in place of values."""
    texts = []
    for name in ("resolve", "requeue"):
        tree = ast.parse((ROOT / "domain" / "lifecycle" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ResolutionRefused":
                parts = node.args[0]
                values = parts.values if isinstance(parts, ast.JoinedStr) else [parts]
                texts.append(
                    "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in values)
                )
    assert len(texts) > 15
    return texts


@for_each("text", _refusal_texts())
def test_a_refused_decision_names_the_state_and_no_command(text: str) -> None:
    succeeded = a_payment(stage=Stage.SUCCEEDED)
    shown = describe_refusal(ResolutionRefused(text), succeeded, "success")
    assert shown.startswith("The payment is final: success. ")
    assert not re.search(r"`|--|\bcommand\b|'(paid|unpaid|reviewed)'", shown), shown


@for_each(
    "stage, text",
    [
        (Stage.SUCCEEDED, "The payment is final: X. It has ended"),
        (Stage.FAILED, "The payment is final: X. It has ended"),
        (Stage.SUBMITTING, "The payment's state: X. It may have been sent already"),
        (Stage.IN_DOUBT, "The payment's state: X. It may have been sent already"),
        (Stage.ACCEPTED, "The payment's state: X. It needs review"),
    ],
)
def test_a_refused_cancellation_says_the_state_and_why(stage: Stage, text: str) -> None:
    payment = a_payment(stage=stage)
    assert describe_refusal(TooLateToCancel(), payment, "X").startswith(text)
