"""The settings of the callback receiver."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from domain.adapters.settings.common import SharedSettings
from domain.adapters.settings.values import (
    CallbackSecrets,
    IpNetwork,
    parse_networks,
    split_at_commas,
)

# The 14 source addresses of callbacks that Safaricom published or that were observed
# (daraja.md §8.1).
SAFARICOM_NETWORKS = ",".join(
    f"196.201.{host}/32"
    for host in (
        "214.200", "214.206", "214.207", "214.208", "213.114", "213.44", "212.127",
        "212.138", "212.129", "212.136", "212.74", "212.69", "212.128", "212.132",
    )
)  # fmt: skip


class CallbackSettings(SharedSettings):
    """The settings of the callback receiver."""

    port: int = Field(8081, ge=1, le=65535)
    callback_secrets: Annotated[CallbackSecrets, NoDecode]
    callback_allowed_networks: Annotated[list[IpNetwork], NoDecode] = Field(
        default_factory=lambda: parse_networks(SAFARICOM_NETWORKS)
    )
    trusted_proxies: Annotated[list[IpNetwork], NoDecode] = Field(default_factory=list)

    _split_secrets = field_validator("callback_secrets", mode="before")(split_at_commas)
    _parse_networks = field_validator(
        "callback_allowed_networks", "trusted_proxies", mode="before"
    )(parse_networks)
