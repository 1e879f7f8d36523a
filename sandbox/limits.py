"""What one program may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from settings import SandboxSettings

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one test (`cpu_s`, `wall_s`, sizes) and of one program with all its tests (`program_cpu_s`...).

    `cpu_s` is judged by the precise CPU clock of the process. `wall_s` ends a process that sleeps; one that waits for a
    busy machine gets up to three times as long. `scratch_bytes` is the size of `/tmp` in the jail.
    """

    cpu_s: float = 4.0
    wall_s: float = 10.0
    program_cpu_s: float = 120.0
    program_wall_s: float = 240.0
    program_output_bytes: int = 256 * MIB
    memory_bytes: int = 512 * MIB
    output_bytes: int = 8 * MIB
    scratch_bytes: int = 16 * MIB
    num_processes: int = 192

    @classmethod
    def of(cls, settings: SandboxSettings) -> Limits:
        """The limits among the settings."""
        return cls(
            cpu_s=settings.cpu_s,
            wall_s=settings.wall_s,
            program_cpu_s=settings.program_cpu_s,
            program_wall_s=settings.program_wall_s,
            memory_bytes=settings.memory_bytes,
            output_bytes=settings.output_bytes,
            scratch_bytes=settings.scratch_bytes,
        )

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"limit {name} is {getattr(self, name)}; it must be greater than 0")
        if self.wall_s < self.cpu_s:
            raise ValueError(f"wall_s {self.wall_s:g} is below cpu_s {self.cpu_s:g}: no program could use its CPU time")
