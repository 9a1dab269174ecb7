"""The environment of each process, and nothing beyond it: what docs promise to be enough is all
they get.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where everything is, and the secrets it shares."""

    database_url: str
    redis_url: str
    jwks_url: str
    issuer_url: str
    callback_base_url: str
    callback_secrets: str
    daraja: Mapping[str, str]  # DARAJA_… variables, as the simulator says them

    def environment(self, kind: str, *, port: int | None = None) -> dict[str, str]:
        """What a process of this kind reads; `port` for those that listen."""
        own = {} if port is None else {"PORT": str(port)}
        match kind:
            case "release":
                return bare() | {"DATABASE_URL": self.database_url}
            case "web":
                own |= {"JWT_JWKS_URL": self.jwks_url, "JWT_ISSUER": self.issuer_url}
            case "callbacks":
                own |= {
                    "CALLBACK_SECRETS": self.callback_secrets,
                    "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8",
                }
            case "worker":
                own |= {
                    "CALLBACK_BASE_URL": self.callback_base_url,
                    "CALLBACK_SECRETS": self.callback_secrets,
                }
                own |= self.daraja
            case _:
                pass  # a line of the Procfile that we know nothing about gets what all get
        return bare() | {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url} | own


def bare() -> dict[str, str]:
    """What even a program without settings needs: to find Python and the commands installed
    beside it.
    """
    beside = Path(
        sys.executable
    ).parent  # not resolved: in a virtual environment Python itself is only linked
    return {"PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def overridden(environment: Mapping[str, str], *layers: Mapping[str, str | None]) -> dict[str, str]:
    """The same with each layer's values in place; None takes a variable away."""
    merged: dict[str, str | None] = {**environment}
    for layer in layers:
        merged |= layer
    return {name: value for name, value in merged.items() if value is not None}
