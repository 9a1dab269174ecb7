"""A table of cases in one test reports as much as a test for each case."""

from __future__ import annotations

import inspect

import pytest

from tests.case_tables import for_each


def test_every_case_runs_and_the_error_names_every_failure() -> None:
    played = []

    @for_each("number", [1, 2, 3, 4])
    def test(number: int) -> None:
        played.append(number)
        assert number != 2, "two"
        if number == 3:
            raise RuntimeError("three")
        if number == 4:
            with pytest.raises(ValueError, match="never"):
                pass

    with pytest.raises(AssertionError, match=r"3 of 4 cases failed") as caught:
        test()
    assert played == [1, 2, 3, 4]
    assert "[2] AssertionError: two" in str(caught.value)
    assert "[3] RuntimeError: three" in str(caught.value)


def test_two_tables_make_all_pairs_and_the_error_names_both_cases() -> None:
    played = []

    @for_each("letter", "ab", ids=["first", "second"])
    @for_each(("number", "word"), [(1, "one"), pytest.param(2, "two", id="a pair")])
    def test(letter: str, number: int, word: str) -> None:
        played.append((letter, number, word))
        assert (letter, number) != ("b", 2)

    with pytest.raises(AssertionError, match=r"\[second-a pair\]"):
        test()
    assert not inspect.signature(test).parameters  # so pytest looks for no fixture
    assert sorted(played) == [("a", 1, "one"), ("a", 2, "two"), ("b", 1, "one"), ("b", 2, "two")]


def test_a_case_of_another_length_and_an_empty_table_are_rejected() -> None:
    with pytest.raises(AssertionError, match="3 values for 2 names"):
        for_each("a, b", [(1, 2, 3)])
    with pytest.raises(AssertionError, match="without a case"):
        for_each("a", [])
