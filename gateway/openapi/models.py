"""Models of what callers see, made from its one declaration in `domain/views.py`: as the writer,
so the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from domain.views import Member, View


@cache
def model_of(view: View) -> type[BaseModel]:
    """The model of `view`: always the same, because two models of one name would be two schemas."""
    return model_of_members(view.name, view.description, view.members)


def model_of_members(
    name: str,
    sentence: str,
    members: Iterable[Member],
    *,
    meanings: Mapping[Any, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> type[BaseModel]:
    """The model of an object with `members`.

    `meanings` gives the models of what members mean, where that is no plain type. `more` is said of
    the whole object, in keywords of JSON Schema.
    """
    fields = {member.name: _field(member, meanings or {}) for member in members}
    config = ConfigDict(json_schema_extra=dict(more)) if more else None
    return create_model(name, __doc__=sentence, __config__=config, **fields)  # type: ignore[call-overload, no-any-return]


def _field(member: Member, meanings: Mapping[Any, Any]) -> tuple[Any, Any]:
    kind = meanings.get(member.value_type, member.value_type)
    if isinstance(kind, View):
        kind = model_of(kind)
    if kind is int and member.schema_keywords:
        kind = Annotated[int, Field(ge=member.schema_keywords["minimum"])]
    elif member.schema_keywords:
        kind = Annotated[kind, WithJsonSchema({"type": "string", **member.schema_keywords})]
    if member.may_be_null:
        kind = Union[kind, None]  # noqa: UP007 - of a type that is not written here
    # What has a default may be absent.
    default: Any = None if member.may_be_absent else ...
    return kind, Field(default, description=member.description or None)
