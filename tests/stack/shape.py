"""The shape of a stack: its processes and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shape:
    """Which processes of the Procfile run, how many of each, and with which settings.

    `env` is for all processes, `process_env` for a kind (`worker`, `simulator`) or one of them
    (`worker.2`). A value of None removes a variable. `time_scale` shortens Daraja's delays.
    """

    processes: tuple[str, ...] = ("web", "callbacks", "worker")
    webs: int = 1
    callbacks: int = 1
    workers: int = 1
    env: Mapping[str, str | None] = field(default_factory=dict)
    process_env: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    time_scale: float = 1.0

    @property
    def names(self) -> list[str]:
        """The names of the processes, for example `worker.1`."""
        counts = {"web": self.webs, "callbacks": self.callbacks, "worker": self.workers}
        return [f"{kind}.{n}" for kind in self.processes for n in range(1, counts[kind] + 1)]

    def layers(self, kind: str, name: str) -> tuple[Mapping[str, str | None], ...]:
        """Returns the extra variables of a process. A later, more specific layer overrides."""
        return (self.env, self.process_env.get(kind, {}), self.process_env.get(name, {}))
