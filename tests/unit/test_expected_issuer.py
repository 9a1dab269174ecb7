"""A token that is not for this service: the refusal says what the service expects."""

from __future__ import annotations

import pytest

from domain.errors import Unauthenticated
from tests.unit.test_auth import ABSENT, CLAIMS, HEADER, ISSUER, Service, compact, token

ELSEWHERE = "https://elsewhere.example/auth/v1"


@pytest.mark.parametrize(
    "issuer", [ABSENT, None, "", ELSEWHERE, ISSUER + "/", ISSUER.upper(), [ISSUER], [ELSEWHERE]]
)
async def test_a_token_of_another_issuer_is_told_which_one_is_expected(issuer: object) -> None:
    """But not which one it has: a refusal repeats nothing of the token."""
    claims = {
        name: value for name, value in {**CLAIMS, "iss": issuer}.items() if value is not ABSENT
    }
    with pytest.raises(Unauthenticated) as refusal:
        await Service().caller(compact(HEADER, claims))
    assert f" {ISSUER}" in refusal.value.message
    assert "elsewhere" not in refusal.value.message


async def test_a_token_for_another_audience_is_told_which_one_is_expected() -> None:
    with pytest.raises(Unauthenticated, match="authenticated") as refusal:
        await Service().caller(token(aud="another-project"))
    assert "another-project" not in refusal.value.message
