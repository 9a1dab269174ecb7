"""SQL with named parameters: names become numbers, and nothing else changes."""

from __future__ import annotations

import pytest

from domain.adapters.postgres.functions import Function
from domain.adapters.postgres.statements import sql
from tests.case_tables import for_each


def test_each_name_has_one_number_and_values_are_ordered_by_it() -> None:
    statement = sql("SELECT :b, CAST(:a AS text), :b")
    assert statement.text == "SELECT $1, CAST($2 AS text), $1"
    assert statement.order({"a": "x", "b": 7, "unused": 0}) == [7, "x"]


@for_each("text", ["SELECT '1'::text", "SELECT ids[1:n]", "x := 1", "SELECT 'at 10:30'"])
def test_a_colon_that_begins_no_name_stays(text: str) -> None:
    assert sql(text).text == text


def a_function(body: str = "BEGIN RETURN QUERY SELECT :a + :b; END") -> Function:
    return Function(
        "add", body, parameters={"a": "integer", "b": "integer"}, returns={"sum": "integer"}
    )


def test_a_function_is_called_with_its_parameters_in_their_order() -> None:
    function = a_function()
    assert function.call.text.endswith(f"* FROM {function.installed_name}($1, $2)")
    assert function.call.order({"b": 2, "a": 1}) == [1, 2]
    assert "SELECT $1 + $2" in function.definition


def test_the_name_of_a_function_changes_with_its_text() -> None:
    assert a_function().installed_name == a_function().installed_name
    assert a_function("BEGIN END").installed_name != a_function().installed_name


def test_a_function_that_uses_an_unknown_parameter_is_rejected() -> None:
    with pytest.raises(ValueError, match="add uses parameters that it does not have: c"):
        _ = a_function("BEGIN RETURN QUERY SELECT :c; END").definition
