"""Reads a form of the console: its origin, and its fields as text, each once."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import SplitResult, parse_qsl, urlsplit

from aiohttp import hdrs, web

from domain.errors import FieldError, InvalidRequest, UnsupportedMediaType
from gateway.edge.requests import BODY_BYTES_MAX, read_bytes

_FORM_TYPE = "application/x-www-form-urlencoded"
_FIELDS_MAX = 20

Form = dict[str, str]


class FormRefusedError(Exception):
    """The form did not come from a page of this session."""


def require_own_origin(request: web.Request) -> None:
    """Raises FormRefusedError if the browser does not say that a page of ours sent the form."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        is_own = site == "same-origin"
    else:  # a browser before 2023, or a page without HTTPS
        host = parse_url(request.headers.get(hdrs.ORIGIN, "")).netloc
        is_own = bool(host) and host == request.host
    if not is_own:
        raise FormRefusedError


def parse_url(text: str) -> SplitResult:
    """The parts of a URL in a header. They are empty if it is no URL, such as `http://[::1`."""
    try:
        return urlsplit(text)
    except ValueError:
        return SplitResult("", "", "", "", "")


async def read_form(request: web.Request) -> Form:
    """The fields of the form.

    Raises UnsupportedMediaType, InvalidRequest with each field that is wrong, or an error of
    `read_bytes`.
    """
    if request.content_type != _FORM_TYPE:
        raise UnsupportedMediaType(
            f"Send the form as {_FORM_TYPE}, as each page of the console does."
        )
    body = await read_bytes(request, BODY_BYTES_MAX)
    try:
        # Bytes that are not UTF-8 become unpaired surrogates, so the fault can name its field.
        fields = parse_qsl(
            body.decode("utf-8", "surrogateescape"),
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        fault = f"has more than {_FIELDS_MAX} fields; open the page again, and send it from there"
        raise InvalidRequest([FieldError("Form", fault)]) from None
    form: Form = {}
    faults: dict[str, FieldError] = {}
    for name, value in fields:
        if not _is_unicode(name + value):
            fault = (
                "has bytes that are not UTF-8; type it again in the page, and send it from there"
            )
            faults[name] = FieldError(name.encode("utf-8", "backslashreplace").decode(), fault)
        elif name in form:
            faults[name] = FieldError(name, "is sent more than once; send it once")
        form[name] = value
    if faults:
        raise InvalidRequest(list(faults.values()))
    return form


def require_known_fields(form: Form, known: Collection[str]) -> None:
    """Raises InvalidRequest if the form has a field that is not `known`.

    If an action ignored a misspelt field, it would do something else than the operator asked for.
    """
    has = f"the form has only {', '.join(known)}" if known else "the form has no fields"
    detail = f"is not a field of this form; {has}"
    faults = [FieldError(name, detail) for name in form if name not in known]
    if faults:
        raise InvalidRequest(faults)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
