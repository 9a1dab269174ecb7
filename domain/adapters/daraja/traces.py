"""Checks whether an answer has a trace of a payment: an id, or an acknowledgement.

If we do not know the form of an answer, it counts as a refusal only if it has no such trace. If we
cannot read an answer completely, we assume that it may have a trace.
"""

from __future__ import annotations

import re
from typing import Any

from domain.adapters.daraja.result_codes import code_text
from domain.adapters.strict_json import Unreadable, parse

_IDS = frozenset(
    {
        "checkoutrequestid",
        "merchantrequestid",
        "conversationid",
        "originatorconversationid",
        "originalconversationid",
    }
)
_RESPONSE_CODE = "responsecode"

# A response code that refuses. Zero acknowledges, and newer products acknowledge with 200
# (daraja.md §7). Any other text may mean anything.
_REFUSING_CODE = re.compile(r"(?!2\d\d\b)[1-9]\d{0,5}(\.\d{1,4}){0,3}", re.ASCII)

_ID_NAME = r"(?:(?:checkout|merchant)[\s_-]{0,3}request|conversation)[\s_-]{0,3}id"
_CODE_NAME = r"response[\s_-]{0,3}code"
_NAME = re.compile(f"{_ID_NAME}|{_CODE_NAME}", re.IGNORECASE)
# The name of a field inside a sentence. We assume a sentence if a word or the end of the text
# follows the name. In any other position, the name may belong to a real field.
_NAME_IN_PROSE = re.compile(
    f"(?:{_ID_NAME}|{_CODE_NAME})(?=[.!;,)]{{0,2}}(?:\\s+[a-z]|\\s*$|</))", re.IGNORECASE | re.ASCII
)
_ID_SHAPE = re.compile(r"AG_\d{8}_|ws_CO_\d", re.ASCII)
_ACKNOWLEDGING_WORDS = re.compile(
    r"accepted for processing|accept(?:ed)? the service request", re.IGNORECASE
)

# Control characters, or letters that are written as escapes.
_UNREADABLE_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]|\\u")
_BEGINS_JSON = re.compile(r"\ufeff?\s*[{\[]")
_ENDS_JSON = re.compile(r"[}\]]\s*\Z")
_JSON_MARKS = re.compile(r"[{\"]")


def may_have_payment_trace(body: bytes) -> bool:
    """Whether the answer has an id or an acknowledgement, or might have one."""
    try:
        return _has_trace(parse(body))
    except Unreadable:
        text = body.decode("utf-8", "replace")
    if _BEGINS_JSON.match(text) and not _ENDS_JSON.search(text):
        return True  # the text is cut off, and the missing part may have an id
    # In broken JSON, the name of an id field is already a trace.
    return bool(_JSON_MARKS.search(text) and _NAME.search(text)) or _has_trace_in_text(text)


def has_payment_trace(message: Any) -> bool:
    """Whether a parsed message has an id of a payment, or a code that acknowledges."""
    return _has_trace(message, in_texts=False)


def _has_trace(value: Any, *, in_texts: bool = True) -> bool:
    match value:
        case dict():
            return any(
                _is_trace(key, inner) or _has_trace(inner, in_texts=in_texts)
                for key, inner in value.items()
            )
        case list():
            return any(_has_trace(inner, in_texts=in_texts) for inner in value)
        case str():
            return in_texts and _has_trace_in_text(value)
        case _:
            return False


def _is_trace(key: str, value: Any) -> bool:
    name = "".join(character for character in key.lower() if character.isalpha())
    if value is None or value == "":
        return False
    if name == _RESPONSE_CODE:
        return _REFUSING_CODE.fullmatch(code_text(value) or "") is None
    return name in _IDS


def _has_trace_in_text(text: str) -> bool:
    if _UNREADABLE_TEXT.search(text) or _ID_SHAPE.search(text) or _ACKNOWLEDGING_WORDS.search(text):
        return True
    return _NAME.search(_NAME_IN_PROSE.sub("", text)) is not None
