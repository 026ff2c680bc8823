"""What only the local trainer can be told: with a job (`LocalOptions`), or once for a machine (`LocalSettings`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from llmtune.provider import Account, Options


class LocalOptions(Options):
    """What only the local trainer knows. Where and how fast it runs, and what has no place in the common job."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda, else mps, else cpu. Another one is used only when it is there, never silently replaced."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA devices and, for models of 20 million parameters or more, on CPUs that multiply in it;
    float32 elsewhere."""

    launcher: Literal["worker", "torchrun", "ray"] | None = None
    """What starts the processes: worker (one), torchrun (several on this machine), ray (on a cluster). None: worker for
    one process, torchrun for several."""

    processes: int = Field(default=1, ge=1)
    """Processes that share each step's rows, one a GPU, or on CPU with the cores divided among them."""

    ray_address: str = "local"
    """Launcher ray: a cluster's address, "auto", or "local" for one that is started for the run. Its nodes must see the
    run folder."""

    num_threads: int | None = None
    """CPU threads; None: all physical cores this process may use."""

    token_budget: int | None = None
    """Tokens in a micro-batch at most; None: 2048 on CPU, 16384 elsewhere."""

    gradient_checkpointing: bool = False
    """Trade speed for memory."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    chat_template: str | None = None
    """A Jinja chat template instead of the model's own, or the name of a ready one: chatml, llama3, gemma, deepseek-r1,
    plain, alpaca."""

    template_options: dict[str, Any] = {}
    """Variables for the chat template (enable_thinking), the same for training and answering."""

    mask_empty_thinking: bool = False
    """Leave the empty `<think></think>` unlearned that the template of a model with reasoning writes before an answer
    without any, so that tuning on such rows does not teach the model to stop thinking."""

    rslora: bool = False
    """Scale adapters by alpha / sqrt(rank) instead of alpha / rank, so that high ranks learn (arXiv:2312.03732)."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Method classification: how much each label's rows weigh in the loss; balanced: by how rare they are."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Method classification, several labels a row: a label is answered from this probability on."""

    @model_validator(mode="after")
    def _one_worker(self) -> LocalOptions:
        if self.launcher == "worker" and self.processes > 1:
            raise ValueError(
                f"launcher worker starts one process, not {self.processes}: leave launcher out, or set it to torchrun"
                " or ray"
            )
        return self


class LocalSettings(Account):
    """Where local runs live."""

    runs: str | None = None
    """Folder of the run folders; None: `local` in llmtune's home."""
