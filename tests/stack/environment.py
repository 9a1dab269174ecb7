"""The environment of each process: only the variables that the documents name as necessary."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wiring:
    """The addresses of all parts of a stack, and the secrets that they share."""

    database_url: str
    redis_url: str
    jwks_url: str
    issuer_url: str
    callback_base_url: str
    callback_secrets: str
    daraja: Mapping[str, str]  # DARAJA_… variables, as the simulator gives them

    def environment(self, kind: str, *, port: int | None = None) -> dict[str, str]:
        """Returns the environment for a process of this kind. `port`: where it listens, or None."""
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
                pass  # an unknown line of the Procfile gets the variables for all processes
        return bare() | {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url} | own


def bare() -> dict[str, str]:
    """Returns a PATH to find Python and the commands installed beside it."""
    # Do not resolve the path: in a virtual environment Python itself is only a link.
    beside = Path(sys.executable).parent
    return {"PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def overridden(environment: Mapping[str, str], *layers: Mapping[str, str | None]) -> dict[str, str]:
    """Returns `environment` with the values of each layer. None removes a variable."""
    merged: dict[str, str | None] = {**environment}
    for layer in layers:
        merged |= layer
    return {name: value for name, value in merged.items() if value is not None}
