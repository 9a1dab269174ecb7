"""What distinguishes one running stack from another."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shape:
    """Which processes of the Procfile run, how often, and with which settings.

    `env` is for all processes, `process_env` for a kind (`worker`, `simulator`) or one of them
    (`worker.2`). A value of None takes a variable away. `time_scale` shortens Daraja's delays.
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
        """The processes, as `worker.1`."""
        counts = {"web": self.webs, "callbacks": self.callbacks, "worker": self.workers}
        return [f"{kind}.{n}" for kind in self.processes for n in range(1, counts[kind] + 1)]

    def layers(self, kind: str, name: str) -> tuple[Mapping[str, str | None], ...]:
        """What is set for a process besides what it needs, the more special later."""
        return (self.env, self.process_env.get(kind, {}), self.process_env.get(name, {}))
