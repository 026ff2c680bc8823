"""What to search where nobody says: published advice, cut to what the backend takes. Each range names its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.provider.declarations import Capabilities, Converted, Declaration, Facts, Refused, Sent
from llmtune.provider.values import Float, Int
from llmtune.sweeps.space import Choice, Range, Space


@dataclass(frozen=True)
class Advice:
    """A range that has been published for a field. Empty `methods` and `adapters` mean all."""

    field: str
    part: Range | Choice
    source: str
    methods: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    instead: str = ""
    """A field whose place this takes: advised only where the backend has no such knob."""

    def fits(self, method: str, adapter: str) -> bool:
        """Whether it was published for this kind of training."""
        return (not self.methods or method in self.methods) and (not self.adapters or adapter in self.adapters)


_LOW_RANK = ("lora", "qlora", "dora")

#: In order of what mattered most where it was measured. Figures are the papers' own; the ranges around them are ours.
ADVICE: tuple[Advice, ...] = (
    Advice(
        "learning_rate",
        Range(low=2e-5, high=2e-3, log=True),
        "around the 1e-4 to 2e-4 of LoRA (arXiv:2106.09685, 2021) and QLoRA (arXiv:2305.14314, 2023)",
        methods=("sft", "classification"),
        adapters=_LOW_RANK,
    ),
    Advice(
        "learning_rate",
        Range(low=1e-5, high=1e-4, log=True),
        "around the 2e-5 to 5e-5 of BERT (arXiv:1810.04805, 2018)",
        methods=("classification",),
        adapters=("full",),
    ),
    Advice(
        "learning_rate",
        Range(low=2e-6, high=2e-4, log=True),
        "around the 2e-5 of Llama 2's supervised tuning (arXiv:2307.09288, 2023)",
        methods=("sft",),
        adapters=("full",),
    ),
    Advice(
        "learning_rate",
        Range(low=5e-7, high=5e-5, log=True),
        "around the 1e-6 of DPO (arXiv:2305.18290, 2023), and higher for low-rank adapters",
        methods=("dpo",),
    ),
    Advice(
        "learning_rate_multiplier",
        Range(low=0.5, high=2.0, log=True),
        "half to twice the rate that the backend chooses itself",
        instead="learning_rate",
    ),
    Advice(
        "epochs",
        Range(low=1, high=4, whole=True),
        "2 in Llama 2 (arXiv:2307.09288, 2023), 2 to 4 in BERT (arXiv:1810.04805, 2018)",
    ),
    Advice(
        "lora_rank",
        Choice(values=(8, 16, 32, 64)),
        "8 in LoRA (arXiv:2106.09685, 2021) to 64 in QLoRA (arXiv:2305.14314, 2023)",
        adapters=_LOW_RANK,
    ),
    Advice("dpo_beta", Choice(values=(0.1, 0.3, 0.5)), "0.1 and 0.5 in DPO (arXiv:2305.18290, 2023)", methods=("dpo",)),
    Advice(
        "batch_size",
        Choice(values=(8, 16, 32)),
        "16 and 32 in BERT (arXiv:1810.04805, 2018), 16 in QLoRA (arXiv:2305.14314, 2023)",
    ),
)


def suggest(job: TuningJob, provider: str, capabilities: Capabilities) -> tuple[Space, dict[str, str]]:
    """A space for this job at this backend, and where each of its ranges comes from.

    Fields that the backend has no knob for are left out, and ranges cut to what it takes. Raises `InvalidJob` where
    nothing is left.
    """
    space: Space = {}
    sources: dict[str, str] = {}
    facts = Facts(hyperparameters=job.hyperparameters_for(provider), method=job.method, adapter=job.adapter)
    for advice in ADVICE:
        name = advice.field
        if name in space or advice.instead in space or not advice.fits(job.method, job.adapter):
            continue
        part = _cut(advice.part, name, capabilities.parameters, facts)
        if part is None:
            continue
        space[name] = part
        own = capabilities.parameters[name].source
        sources[name] = advice.source + (f"; within what {provider} takes ({own})" if own else "")
    if not space:
        raise InvalidJob(
            f"{provider} has none of the knobs that there is advice for", where="space", hint="give a space"
        )
    return space, sources


def _cut(part: Range | Choice, name: str, parameters: Mapping[str, Declaration], facts: Facts) -> Range | Choice | None:
    declared = parameters[name]
    if not isinstance(declared, (Sent, Converted)) or declared.where != "training":
        return None
    if isinstance(part, Choice):
        values = tuple(value for value in part.values if _goes(value, declared, facts))
        return Choice(values=values) if len(values) > 1 else None
    low, high = part.low, part.high
    if isinstance(declared, Sent) and isinstance(declared.type, Int | Float):
        low, high = _within(low, high, declared.type)
    ends = [round(end) if part.whole else end for end in (low, high)]
    if low >= high or not all(_goes(end, declared, facts) for end in ends):
        return None
    return part.model_copy(update={"low": low, "high": high})


def _within(low: float, high: float, takes: Int | Float) -> tuple[float, float]:
    if isinstance(takes, Int):
        return max(low, takes.low if takes.low is not None else low), min(
            high, takes.high if takes.high is not None else high
        )
    lows = [each for each in (takes.ge, takes.gt) if each is not None]
    highs = [each for each in (takes.le, takes.lt) if each is not None]
    return max([low, *lows]), min([high, *highs])


def _goes(value: object, declared: Sent | Converted, facts: Facts) -> bool:
    """Whether the backend takes exactly this value, not one near it."""
    if isinstance(declared, Sent):
        return declared.type.fault(value) is None
    changed = declared.rule(value, facts)
    if isinstance(changed, Refused) or declared.type.fault(changed.value) is not None:
        return False
    return changed.value == value or changed.exact or isinstance(value, float)
