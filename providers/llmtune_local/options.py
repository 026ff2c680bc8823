"""What only the local trainer can be told: with a job (`LocalOptions`), or once for a machine (`LocalSettings`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llmtune.provider import Account, Options


class LocalOptions(Options):
    """What only the local trainer knows. Where and how fast it runs, and what has no place in the common job."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu. Another one is used only when it is there, never silently replaced."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA devices and, for models of 20 million parameters or more, on CPUs that multiply in it;
    float32 elsewhere."""

    num_threads: int | None = None
    """CPU threads; None: all physical cores this process may use."""

    token_budget: int | None = None
    """Tokens in a micro-batch at most; None: 2048 on CPU, 16384 elsewhere."""

    gradient_checkpointing: bool = False
    """Trade speed for memory."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    chat_template: str | None = None
    """A Jinja chat template instead of the model's own."""

    template_options: dict[str, Any] = {}
    """Variables for the chat template (enable_thinking), the same for training and answering."""

    rslora: bool = False
    """Scale adapters by alpha / sqrt(rank) instead of alpha / rank, so that high ranks learn (arXiv:2312.03732)."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Method classification: how much each label's rows weigh in the loss; balanced: by how rare they are."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Method classification, several labels a row: a label is answered from this probability on."""


class LocalSettings(Account):
    """Where local runs live."""

    runs: str | None = None
    """Folder of the run folders; None: `local` in llmtune's home."""
