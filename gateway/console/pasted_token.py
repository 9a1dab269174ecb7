"""Reads a token that an operator pasted, with what people copy along with it."""

from __future__ import annotations

import re
import unicodedata

from domain.errors import Unauthenticated

_BEFORE = re.compile(r"^(?:Authorization:)?(?:Bearer)?", re.IGNORECASE)
_QUOTES = "\"'`<>\u2018\u2019\u201c\u201d"
_PARTS = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
# Supabase's API keys. `bearer_token` refuses them with a sentence of its own.
_KEYS = ("sb_secret_", "sb_publishable_")


class EmptyTokenError(Exception):
    """The operator pasted nothing."""


def read_pasted_token(text: str) -> str:
    """The token in `text`.

    White space, invisible characters, quotes around the token, and `Authorization: Bearer` before
    it are dropped: terminals break a long line, and people copy the whole header. Raises
    EmptyTokenError, or Unauthenticated if the rest does not look like a token.
    """
    visible = "".join(each for each in text if not _is_invisible(each)).strip(_QUOTES)
    token = _BEFORE.sub("", visible, count=1).strip(_QUOTES)
    if not token:
        raise EmptyTokenError
    if not _PARTS.fullmatch(token) and not token.startswith(_KEYS):
        raise Unauthenticated(
            "This is not a token. A token begins with eyJ and has three parts, joined by dots. Copy"
            " one token whole, and nothing else."
        )
    return token


def _is_invisible(character: str) -> bool:
    """Whether `character` is white space, a control character, or a mark such as U+200B."""
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}
