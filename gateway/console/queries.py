"""Reads the query parameters of the console's pages.

A page refuses a parameter that it does not know. If it ignored a misspelt filter, the operator
would decide about other payments than the page seems to show. Only parameters that mail programs
and trackers add to links are ignored, because they never are a filter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from multidict import MultiMapping

from domain.errors import FieldError, InvalidRequest

# The notice of a finished action. Every page may have it, and shows it only if it is ours.
NOTICE = "done"
_TRACKER_PREFIX = "utm_"
_TRACKERS = frozenset(
    {
        "_ga",
        "_gl",
        "dclid",
        "fbclid",
        "gbraid",
        "gclid",
        "igshid",
        "mc_cid",
        "mc_eid",
        "msclkid",
        "twclid",
        "wbraid",
        "yclid",
    }
)

Query = Mapping[str, str]


def read_query(
    parameters: MultiMapping[str], known: Collection[str]
) -> tuple[Query, list[FieldError]]:
    """The parameters that are known, sent once and not empty; and what is wrong with the others.

    A form sends each of its fields, also the empty ones, so an empty parameter counts as absent.
    """
    query: dict[str, str] = {}
    faults: dict[str, FieldError] = {}
    for name, value in parameters.items():
        if not value or name == NOTICE or _is_tracker(name):
            continue
        if name not in known:
            faults[name] = FieldError(f"?{name}", _describe_known(known))
        elif name in query:
            faults[name] = FieldError(f"?{name}", "is sent more than once; send it once")
        query[name] = value
    right = {name: value for name, value in query.items() if name not in faults}
    return right, list(faults.values())


def require_known(parameters: MultiMapping[str], known: Collection[str]) -> Query:
    """As `read_query`. Raises InvalidRequest if anything is wrong."""
    query, faults = read_query(parameters, known)
    if faults:
        raise InvalidRequest(faults)
    return query


def _is_tracker(name: str) -> bool:
    return name.startswith(_TRACKER_PREFIX) or name in _TRACKERS


def _describe_known(known: Collection[str]) -> str:
    names = ", ".join(sorted(known))
    takes = f"the page takes only {names}" if names else "the page takes none"
    return f"is not a parameter of this page; {takes}"
