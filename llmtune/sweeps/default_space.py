"""The search space of a sweep that names none: published ranges, clipped to what the backend accepts, with sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.errors import InvalidJob
from llmtune.job.spec import TuningJob
from llmtune.provider.declarations import Capabilities, ConversionContext, Converted, Declaration, NotConvertible, Sent
from llmtune.provider.types import Target
from llmtune.provider.values import Float, Int
from llmtune.sweeps.space import Choice, Range, Space


@dataclass(frozen=True)
class SpaceSuggestion:
    """A published range of a field. Empty `methods` and `adapters` mean all."""

    field: str
    part: Range | Choice
    source: str
    methods: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    instead: str = ""
    """A field that this one replaces: suggested only where that field cannot be searched."""

    def fits(self, method: str, adapter: str) -> bool:
        """Return whether the range was published for this kind of training."""
        return (not self.methods or method in self.methods) and (not self.adapters or adapter in self.adapters)


_LOW_RANK = ("lora", "qlora", "dora")

#: Most important first, as far as that has been measured. The papers give the figures; we chose the ranges around them.
ADVICE: tuple[SpaceSuggestion, ...] = (
    SpaceSuggestion(
        "learning_rate",
        Range(low=2e-5, high=2e-3, log=True),
        "around the 1e-4 to 2e-4 of LoRA (arXiv:2106.09685, 2021) and QLoRA (arXiv:2305.14314, 2023)",
        methods=("sft", "classification"),
        adapters=_LOW_RANK,
    ),
    SpaceSuggestion(
        "learning_rate",
        Range(low=1e-5, high=1e-4, log=True),
        "around the 2e-5 to 5e-5 of BERT (arXiv:1810.04805, 2018)",
        methods=("classification",),
        adapters=("full",),
    ),
    SpaceSuggestion(
        "learning_rate",
        Range(low=2e-6, high=2e-4, log=True),
        "around the 2e-5 of Llama 2's supervised tuning (arXiv:2307.09288, 2023)",
        methods=("sft",),
        adapters=("full",),
    ),
    SpaceSuggestion(
        "learning_rate",
        Range(low=5e-7, high=5e-5, log=True),
        "around the 1e-6 of DPO (arXiv:2305.18290, 2023), and higher for low-rank adapters",
        methods=("dpo",),
    ),
    SpaceSuggestion(
        "learning_rate_multiplier",
        Range(low=0.5, high=2.0, log=True),
        "half to twice the rate that the backend chooses itself",
        instead="learning_rate",
    ),
    SpaceSuggestion(
        "epochs",
        Range(low=1, high=4, whole=True),
        "2 in Llama 2 (arXiv:2307.09288, 2023), 2 to 4 in BERT (arXiv:1810.04805, 2018)",
    ),
    SpaceSuggestion(
        "lora_rank",
        Choice(values=(8, 16, 32, 64)),
        "8 in LoRA (arXiv:2106.09685, 2021) to 64 in QLoRA (arXiv:2305.14314, 2023)",
        adapters=_LOW_RANK,
    ),
    SpaceSuggestion(
        "dpo_beta", Choice(values=(0.1, 0.3, 0.5)), "0.1 and 0.5 in DPO (arXiv:2305.18290, 2023)", methods=("dpo",)
    ),
    SpaceSuggestion(
        "batch_size",
        Choice(values=(8, 16, 32)),
        "16 and 32 in BERT (arXiv:1810.04805, 2018), 16 in QLoRA (arXiv:2305.14314, 2023)",
    ),
)


def suggest(job: TuningJob, target: Target, capabilities: Capabilities) -> tuple[Space, dict[str, str]]:
    """Return a space for this job at this backend, and the source of each of its ranges.

    Fields that the backend does not support are left out, and ranges are clipped to the values it accepts. Raises
    `InvalidJob` where no field is left.
    """
    space: Space = {}
    sources: dict[str, str] = {}
    provider = target.provider
    context = ConversionContext(
        hyperparameters=job.hyperparameters_for(provider), method=job.method, adapter=target.adapter
    )
    for advice in ADVICE:
        name = advice.field
        if name in space or advice.instead in space or not advice.fits(job.method, target.adapter):
            continue
        declared = capabilities.parameters[name]
        around = _around_default(advice.part, declared)
        part = _clip(around[0] if around else advice.part, name, capabilities.parameters, context)
        if part is None:
            continue
        space[name] = part
        if around:
            sources[name] = f"around {provider}'s own {around[1]}"
            continue
        sources[name] = advice.source + (
            f"; within what {provider} accepts ({declared.source})" if declared.source else ""
        )
    if not space:
        raise InvalidJob(
            f"{provider} supports none of the fields that have a published range", where="space", hint="give a space"
        )
    return space, sources


def _around_default(part: Range | Choice, declared: Declaration) -> tuple[Range, str] | None:
    """Return a range around the rate that the backend chooses for this very model, with that rate in words.

    It takes the place of a published range: a rate for seven billion parameters says little of three million.
    """
    if not (isinstance(part, Range) and part.log and isinstance(declared, Sent) and declared.default_rule):
        return None
    rate = declared.default
    return Range(low=rate / 4, high=rate * 4, log=True), f"{rate:g} for {declared.default_rule}"


def _clip(
    part: Range | Choice, name: str, parameters: Mapping[str, Declaration], context: ConversionContext
) -> Range | Choice | None:
    declared = parameters[name]
    if not isinstance(declared, (Sent, Converted)) or declared.where != "training":
        return None
    if isinstance(part, Choice):
        values = tuple(value for value in part.values if _is_accepted(value, declared, context))
        return Choice(values=values) if len(values) > 1 else None
    low, high = part.low, part.high
    if isinstance(declared, Sent) and isinstance(declared.type, Int | Float):
        low, high = _clip_range(low, high, declared.type)
    ends = [round(end) if part.whole else end for end in (low, high)]
    if low >= high or not all(_is_accepted(end, declared, context) for end in ends):
        return None
    return part.model_copy(update={"low": low, "high": high})


def _clip_range(low: float, high: float, value_type: Int | Float) -> tuple[float, float]:
    if isinstance(value_type, Int):
        return max(low, value_type.low if value_type.low is not None else low), min(
            high, value_type.high if value_type.high is not None else high
        )
    lows = [bound for bound in (value_type.ge, value_type.gt) if bound is not None]
    highs = [bound for bound in (value_type.le, value_type.lt) if bound is not None]
    return max([low, *lows]), min([high, *highs])


def _is_accepted(value: object, declared: Sent | Converted, context: ConversionContext) -> bool:
    """Return whether the backend uses exactly this value rather than the nearest one it supports."""
    if isinstance(declared, Sent):
        return declared.type.error(value) is None
    converted = declared.rule(value, context)
    if isinstance(converted, NotConvertible) or declared.type.error(converted.value) is not None:
        return False
    return converted.value == value or converted.exact or isinstance(value, float)
