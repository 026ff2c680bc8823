"""The memory of a run on this machine, estimated before it is started."""

from __future__ import annotations

from llmtune._models import DocumentedModel, FrozenModel


class MemoryPart(FrozenModel):
    """One part of a run's memory: its name and its size in `bytes`."""

    name: str
    bytes: int


class Footprint(DocumentedModel):
    """An estimate of the peak on `device`, its parts, and what would make it smaller. Sizes in bytes."""

    peak: int | None = None
    """None where it cannot be estimated."""

    parts: tuple[MemoryPart, ...] = ()
    tokens: int | None = None
    """Tokens of the largest micro-batch."""

    device: str = ""
    room: int | None = None
    """What the device has; None where that is not known."""

    advice: tuple[str, ...] = ()
    """What makes it fit, or smaller, each with the peak it leads to."""

    unknown: str = ""
    """Why there is no estimate."""

    @property
    def fits(self) -> bool | None:
        """Whether the device has that much; None where either is not known."""
        return None if self.peak is None or self.room is None else self.peak <= self.room

    def sentence(self) -> str:
        """Describe the estimate: "about 1.9 GiB of 23.4 GiB (cpu): weights 0.4, activations 1.1, ..."."""
        if self.peak is None:
            return f"not estimated ({self.unknown})"
        of = f" of {size(self.room)}" if self.room is not None else ""
        listed = ", ".join(f"{part.name} {size(part.bytes)}" for part in self.parts if part.bytes)
        verdict = "" if self.fits is not False else ", which is too much"
        return f"about {size(self.peak)}{of} on {self.device}{verdict}: {listed}"


def size(count: int) -> str:
    """Format a number of bytes as MiB or GiB."""
    if count < 1 << 30:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**30:.1f} GiB"
