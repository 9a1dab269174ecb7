"""Models of answers and events, made from the declarations in `domain/views.py`.

The code that writes answers uses the same declarations, so the document and the answers agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from domain.views import Member, View


@cache
def model_of(view: View) -> type[BaseModel]:
    """The model of `view`. Cached, because each new model would add another schema."""
    return model_of_members(view.name, view.description, view.members)


def model_of_members(
    name: str,
    description: str,
    members: Iterable[Member],
    *,
    types: Mapping[Any, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> type[BaseModel]:
    """The model of an object with `members`.

    `types` replaces the documented types of members by models. `more` has keywords of JSON Schema
    for the whole object.
    """
    fields = {member.name: _field(member, types or {}) for member in members}
    config = ConfigDict(json_schema_extra=dict(more)) if more else None
    return create_model(  # type: ignore[call-overload, no-any-return]
        name, __doc__=description, __config__=config, **fields
    )


def _field(member: Member, types: Mapping[Any, Any]) -> tuple[Any, Any]:
    kind = types.get(member.value_type, member.value_type)
    if isinstance(kind, View):
        kind = model_of(kind)
    if kind is int and member.schema_keywords:
        kind = Annotated[int, Field(ge=member.schema_keywords["minimum"])]
    elif member.schema_keywords:
        kind = Annotated[kind, WithJsonSchema({"type": "string", **member.schema_keywords})]
    if member.may_be_null:
        kind = Union[kind, None]  # noqa: UP007 - the type is known only at run time
    # Pydantic treats a field with a default as optional.
    default: Any = None if member.may_be_absent else ...
    return kind, Field(default, description=member.description or None)
