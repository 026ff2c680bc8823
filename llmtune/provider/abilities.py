"""Optional abilities of a provider, each a protocol of one or two methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llmtune._models import DocumentedModel, FrozenModel

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset
    from llmtune.data.example import Example, Message
    from llmtune.data.facts import DatasetFacts
    from llmtune.data.findings import Finding
    from llmtune.data.rendering.preview import TokenPreview
    from llmtune.job.graders import Grader
    from llmtune.job.spec import Adapter
    from llmtune.provider.catalog import Catalog
    from llmtune.provider.cost import CostEstimate
    from llmtune.provider.duration import Duration, FindSpeed
    from llmtune.provider.generation import GenerationRequest, Generator, Unavailable
    from llmtune.provider.memory import Footprint
    from llmtune.provider.receipt import Receipt
    from llmtune.provider.types import JobRef, ModelRef, Request, RunKey, Target


@runtime_checkable
class SupportsContinuation(Protocol):
    """A provider for which training on from a tuned model needs more than that model's id."""

    def continue_from(self, model: ModelRef) -> tuple[str, dict[str, Any]]:
        """Return the model id to request and the options to set so that training continues from this model or
        checkpoint."""
        ...


class CheckResult(FrozenModel):
    """The result of one self-check of a tuned model, such as that templates agree or that the model ends its turn.

    `passed` is the verdict, `says` a sentence with what was seen.
    """

    name: str
    passed: bool
    says: str


@runtime_checkable
class SelfChecking(Protocol):
    """A provider that can check its own tuned models beyond their scores."""

    def check(self, model: ModelRef, examples: Sequence[Example]) -> Sequence[CheckResult]:
        """Check a tuned model with some held-out rows."""
        ...


@runtime_checkable
class KeepsDecisionRules(Protocol):
    """A provider that stores beside a tuned model how its labels are decided, so that the rules travel with it.

    Elsewhere they are in the run store alone.
    """

    def write_decision_rules(self, model: ModelRef, text: str) -> None:
        """Store the rules, as JSON text, beside this model, in place of earlier ones."""
        ...

    def read_decision_rules(self, model: ModelRef) -> str | None:
        """Return the stored text; None where there is none."""
        ...


@runtime_checkable
class WritesGraders(Protocol):
    """A provider whose service scores answers by source that llmtune writes of a grader."""

    def write_grader_source(self, grader: Grader) -> str:
        """Return that source, of a grader for which `llmtune.graders.source.find_obstacle` is None."""
        ...


@runtime_checkable
class Pausable(Protocol):
    """A provider whose jobs can be paused and resumed."""

    def pause(self, job: JobRef) -> None:
        """Pause the job; `poll` reports when it has paused. Raises as `cancel` does."""
        ...

    def resume(self, job: JobRef) -> None:
        """Resume a paused job. Raises as `cancel` does."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A provider whose failed or cancelled jobs can continue from what they have stored."""

    def resume_point(self, job: JobRef) -> str | None:
        """Describe where such a job would continue ("the checkpoint of step 40"); None if it would only fail again."""
        ...

    def restart(self, job: JobRef, request: Request) -> str:
        """Continue the job, with the `request` of its submission where that was lost; return from where, in words."""
        ...


@runtime_checkable
class SupportsTokenPreview(Protocol):
    """A provider that shows which tokens of a row it would train on, for comparison with llmtune's own view."""

    def preview_tokens(self, model: str, examples: Sequence[Example]) -> list[TokenPreview]:
        """Return the tokens of these rows as this base model is trained on them. May upload the rows, and deletes them
        afterwards."""
        ...


@runtime_checkable
class Exporting(Protocol):
    """A provider that can export its tuned models as files."""

    def export(self, model: ModelRef, format: Literal["adapter", "merged"], into: Path) -> Sequence[str]:
        """Write the model to a new folder; return sentences on how to load and serve it."""
        ...

    def serving_command(self, model: ModelRef, name: str) -> str | None:
        """Return the command of an inference server that calls the model `name`; None where it cannot be served from
        where it lies."""
        ...


class RenderedPrompt(FrozenModel):
    """A conversation as a model is given it: `text`, and the `tokens` that it is read as."""

    text: str
    tokens: tuple[int, ...]


class PromptRenderer(Protocol):
    """The chat template and tokenizer of one model. Nothing is sent and no weights are loaded."""

    begin_token: int | None
    """The token at the beginning of a text; None where the tokenizer has none."""

    end_tokens: frozenset[int]
    """The tokens that end an answer."""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generation_prompt: bool = True
    ) -> RenderedPrompt:
        """Render a conversation with the `tools` it offers; without `generation_prompt`, the beginning of the answer's
        turn is left out.

        Raises `InvalidData` where the template refuses it.
        """
        ...

    def tokenize(self, text: str, *, special_tokens: bool = True) -> tuple[int, ...]:
        """Return the tokens of a text. Without `special_tokens`, their marks in it are read as plain characters."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        ...


@runtime_checkable
class RendersPrompts(Protocol):
    """A provider that knows the tokens that its tuned models are given."""

    def prompt_renderer(self, model: ModelRef) -> PromptRenderer | None:
        """Return the template and tokenizer of a tuned model; None for a model that is not asked by conversations."""
        ...


#: Forms of a tuned model as inference servers load it: GGUF files for llama.cpp, an Ollama folder, a vLLM folder.
ServerFormat = Literal["gguf", "gguf-adapter", "ollama", "vllm"]

#: Every form in which a tuned model can be exported.
ExportFormat = Literal["adapter", "merged", "gguf", "gguf-adapter", "ollama", "vllm"]

#: Precisions of the matrices in a GGUF file; q8_0 is 8 bits with a scale for each 32 weights.
Precision = Literal["f32", "f16", "bf16", "q8_0"]


@dataclass(frozen=True)
class ServedExport:
    """An exported model that answers on this machine, while it is compared with the tuned one.

    `program` is what answers, with its version. It speaks chat completions at `address`, to requests with `key`. Where
    there is no address, `generator` answers in this process, and `prompt_tokens` returns the prompt of a request as the
    program makes it from the exported files.
    """

    program: str
    address: str | None = None
    key: str = field(default="", repr=False)
    generator: Generator | None = None
    prompt_tokens: Callable[[GenerationRequest], tuple[int, ...]] | None = None


@runtime_checkable
class ExportsForServers(Protocol):
    """A provider that writes its tuned models in the files of inference servers, and serves what it has written."""

    def export_for_server(
        self, model: ModelRef, format: ServerFormat, into: Path, precision: Precision
    ) -> Sequence[str]:
        """Write the model to a new folder; return sentences on how to serve it, and on what will differ.

        `precision` is that of GGUF files. Raises `InvalidJob` for a model that the server computes differently.
        """
        ...

    def serve_export(
        self, model: ModelRef, folder: Path
    ) -> Callable[[int], AbstractContextManager[ServedExport]] | Unavailable:
        """Return what serves the export in `folder` on this machine, or why nothing does.

        It is called with how many tokens the longest conversation has, answer included, and serves the export until its
        context ends. Nothing is loaded before.
        """
        ...


class WeightImport(DocumentedModel):
    """An import of weights into a vendor's account, as the vendor reports it."""

    id: str
    """The vendor's id of the import."""

    state: Literal["running", "succeeded", "failed"]
    """Whether it is under way, done or given up."""

    raw_state: str
    """The vendor's own word for the state."""

    name: str = ""
    """The model's name there."""

    model: str | None = None
    """The id under which the model is asked, once there is one."""

    error: str | None = None
    """Why it failed, in the vendor's own words."""

    notes: tuple[str, ...] = ()
    """What it costs while it stands, how it is asked and how it is removed, in sentences."""


@runtime_checkable
class ImportsWeights(Protocol):
    """A provider that takes in weights that were trained elsewhere, and serves them."""

    def import_cost(self) -> str:
        """Return in a sentence what an imported model costs, with its source."""
        ...

    def find_import(self, key: RunKey) -> WeightImport | None:
        """Find the last import that carries this key; None if there is none."""
        ...

    def import_weights(self, folder: Path, name: str, key: RunKey) -> WeightImport:
        """Upload a model's folder and start its import; what is uploaded or started already is not done twice."""
        ...


@runtime_checkable
class HasCatalog(Protocol):
    """A provider with a catalogue of its base models: ids, prices and dates."""

    def read_catalog(self) -> Catalog | None:
        """Return the catalogue, with what the user laid over it; None where there is none. Nothing is sent."""
        ...


@dataclass(frozen=True, kw_only=True)
class PriceAnswer:
    """What a service answered about its prices, in USD.

    `prices` holds them by base model, then by the names of `PRICE_UNITS`, in their units; what is not stated is left
    out. `by_method` holds training prices of a model that differ by "METHOD", "ADAPTER" or "METHOD/ADAPTER".
    `not_used` are clauses, each of which names something that was listed and is no price here, and why:
    "model-x FT Unit: per 1 Day". `region` is where all of the prices hold ("" everywhere).
    """

    prices: Mapping[str, Mapping[str, float]]
    by_method: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    not_used: Sequence[str] = ()
    region: str = ""


@runtime_checkable
class HasLivePrices(Protocol):
    """A provider whose service answers what it charges today."""

    live_prices_page: str
    """The request that answers, for the source of each price: "GET /v2/supported-models"."""

    def fetch_prices(self, models: Sequence[str]) -> PriceAnswer:
        """Ask for today's prices of these base models. Read-only; raises `VendorError` where the service refuses."""
        ...


@runtime_checkable
class SupportsMemoryEstimate(Protocol):
    """A provider that trains on this machine and can estimate the memory of a run."""

    def footprint(self, receipt: Receipt, dataset: Dataset) -> Footprint:
        """Estimate the peak memory without loading anything."""
        ...


@runtime_checkable
class SupportsTimeEstimate(Protocol):
    """A provider that trains on this machine and can estimate how long a run takes."""

    def estimate_duration(self, receipt: Receipt, find_speed: FindSpeed) -> Duration:
        """Estimate the time of a run, from the speed of an earlier one where `find_speed` has it. Loads no weights."""
        ...


@runtime_checkable
class SupportsCostEstimate(Protocol):
    """A provider whose bill is not, or not only, by the tokens of each epoch, and which estimates it itself."""

    def estimate_cost(self, receipt: Receipt) -> CostEstimate:
        """Estimate the cost of a run, by the estimate from its tokens, the memory and the time in its `receipt`. Sends
        nothing."""
        ...


@runtime_checkable
class SuggestsMachine(Protocol):
    """A provider that rents a machine for a run, and can say which would hold one that does not fit here."""

    def suggest_machine(self, receipt: Receipt, dataset: Dataset) -> str | None:
        """Return in a sentence which machine would run a job that was planned for this one, and what it would cost;
        None where none would. Sends nothing."""
        ...


@runtime_checkable
class ListsStrays(Protocol):
    """A provider whose jobs cost money for as long as they run, and that finds the running ones by their label."""

    def list_strays(self) -> Sequence[str]:
        """Return a sentence for each job of llmtune's that runs, with what it has cost. Read-only."""
        ...


@runtime_checkable
class SupportsDeploymentCheck(Protocol):
    """A provider that can find out, before a job is paid for, whether its model may be deployed afterwards."""

    def check_deployment(self) -> list[Finding]:
        """Return what speaks against deploying a model from this account; errors stop the run before it is paid for.

        Reads only. Raises as `Provider.preflight` does.
        """
        ...


@runtime_checkable
class SupportsPlanNotes(Protocol):
    """A provider that can find problems before a run from files on this machine."""

    def plan_notes(self, receipt: Receipt) -> Sequence[str]:
        """Return sentences for the warnings of a plan. Loads no weights and reaches no network."""
        ...


@runtime_checkable
class SupportsWarmStart(Protocol):
    """A provider that starts many runs faster together than one by one."""

    def warm(self) -> AbstractContextManager[None]:
        """Keep what runs have in common loaded until the context is left. Raises `MissingExtra`."""
        ...


@runtime_checkable
class SuggestsAdapter(Protocol):
    """A provider that chooses the adapter by the model, where a job leaves it open."""

    def suggest_adapter(self, target: Target) -> Adapter:
        """Return the adapter for this model and method; `target.adapter` means nothing. Reaches no network."""
        ...


class ModelSuggestion(DocumentedModel):
    """A base model for a dataset, and how it would do on this machine. Estimates are rough."""

    model: str
    """Its id, as a job names it."""

    method: str
    """The method it would be tuned by: sft, dpo or classification."""

    source: Literal["package", "cache", "folder", "hub"]
    """Where it is: in the backend's package, in a cache on this machine, in a folder, or still to be downloaded."""

    parameters: int | None = None
    """How many it has; None where that is not known."""

    languages: str = ""
    """The languages it was made for, in words ("English", "100 languages"); empty where that is not known."""

    context: int | None = None
    """Tokens of its longest row."""

    memory: int | None = None
    """Bytes at the peak of training."""

    available_memory: int | None = None
    """Bytes of memory on this machine, of the device it would be trained on."""

    seconds: float | None = None
    """Training time at the backend's default settings."""

    obstacle: str = ""
    """Why it cannot be trained on these rows here; empty where it can."""

    warning: str = ""
    """What speaks against it, though it could be trained."""

    rows_too_long: bool = False
    """Whether the longest row is probably longer than it takes."""

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return self.source != "hub"


@runtime_checkable
class FindsModels(Protocol):
    """A provider whose models are asked by other names than those that jobs train: deployments, say."""

    def find_model(self, name: str) -> ModelRef | Unavailable:
        """Return what is called `name` in the account as a reference for `generator`, or why it cannot be asked. Sends
        nothing."""
        ...


@runtime_checkable
class SuggestsModels(Protocol):
    """A provider that knows which base models are on this machine, and which it could train on given rows."""

    def list_local_models(self) -> Sequence[str]:
        """Return the ids of the base models on this machine. Reaches no network, and loads nothing."""
        ...

    def suggest_models(self, facts: DatasetFacts, named: str | None = None) -> Sequence[ModelSuggestion]:
        """Return the models, those on this machine first; first of all `named`, which the user named. Reaches no
        network."""
        ...


@runtime_checkable
class DescribesHardware(Protocol):
    """A provider that trains on this machine and can describe its hardware."""

    def describe_hardware(self) -> Mapping[str, str]:
        """Describe the device, cores and memory it would use. May import its libraries; sends nothing."""
        ...
