"""What Azure OpenAI takes: OpenAI's fields, with a shorter suffix, whole numbers only, and its own limits.

Sources: the OpenAI.v1 specification (azure-rest-api-specs, read 2026-11), the authoring specification
2025-04-01-preview, Microsoft Learn (pages dated as given), and Microsoft's azure-skills repository (2026-08-21).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmtune import provider as core
from llmtune.provider import Converted, Declarations, Float, Inherent, Int, NotApplicable, NotOffered, Sent, Unsupported
from llmtune_azure.settings import AzureSettings
from llmtune_openai import declarations as openai
from llmtune_openai.automatic_epochs import bound_automatic_epochs
from llmtune_openai.services import Service, find_model

V1 = "Azure OpenAI v1 REST specification (read 2026-11)"
LEARN = "Microsoft Learn, Customize a model with fine-tuning (2026-10-05)"
QUOTAS = "Microsoft Learn, Azure OpenAI quotas and limits (2026-02-17)"
LEARN_MODELS = "Microsoft Learn, fine-tuning models (2026-03-05)"
SKILLS = "Microsoft azure-skills, fine-tuning (2026-08-21)"

SDK = "openai 3.57.0 (types/fine_tuning/reinforcement_hyperparameters.py)"
#: Where a reinforcement job's fields stand in the request.
REINFORCEMENT = "method.reinforcement"

#: The specifications say 40 and 64 characters, a page 18; 29 were seen to pass. Thirteen are kept for the run key.
LONGEST_SUFFIX = 40
LONGEST_NAME = LONGEST_SUFFIX - 13


def _adapt_declarations(openai_fields: Declarations) -> Declarations:
    method = "dpo" if openai_fields is openai.DPO else "supervised"
    path = f"method.{method}.hyperparameters."
    automatic = "unset: chosen by the service, which reports it as -1 until then"
    declarations = openai_fields.replace(
        epochs=Sent(path + "n_epochs", Int(1, 50), default="auto", source=V1, note=automatic),
        batch_size=Sent(path + "batch_size", Int(1, 256), default="auto", source=V1, note=automatic),
        learning_rate_multiplier=Sent(
            path + "learning_rate_multiplier",
            Float(gt=0),
            default="auto",
            source=V1,
            note=f"Microsoft has two opinions, ten times apart: 0.02 to 0.2 ({LEARN}), and a default of 1.0 with 0.1 to"
            f" 2.0 as usual ({SKILLS})",
        ),
        max_sequence_length=Unsupported(
            "the longest row depends on the model, and what becomes of longer ones is not documented (unverified)",
            source=LEARN,
        ),
        keep_checkpoints=Inherent(
            openai.KEPT_CHECKPOINTS, "the final model and the two epochs before it are kept", source=LEARN
        ),
        dpo_beta=Sent("method.dpo.hyperparameters.beta", Float(gt=0, le=2), default=0.1, source=f"{V1}; {SKILLS}"),
        name=openai.suffix(LONGEST_NAME, V1, more=" before llmtune's own key", note="no dots: they are reserved"),
        seed=Sent("seed", Int(0, 2**31 - 1), default=None, source=V1),
    )
    if method == "supervised":
        return declarations.replace(
            prompt_loss_weight=Inherent(
                0.0,
                "prompts are always masked; one sample of Microsoft's shows the old parameter, no specification does",
                source=V1,
            )
        )
    return declarations


def _adapt_to_reinforcement() -> Declarations:
    """Declare the fields of a reinforcement job: those of a supervised one that it has, and `eval_interval`."""
    own_loss = NotApplicable("there are no tokens to learn from: the model learns from what its own answers earn")
    moved = {
        name: replace(entry, request_path=f"{REINFORCEMENT}.hyperparameters.{entry.request_path.rpartition('.')[2]}")
        for name, entry in _adapt_declarations(openai.SFT).items()
        if isinstance(entry, (Sent, Converted)) and entry.request_path.startswith("method.")
    }
    return _adapt_declarations(openai.SFT).replace(
        **moved,
        prompt_loss_weight=own_loss,
        eval_every=Sent(
            f"{REINFORCEMENT}.hyperparameters.eval_interval",
            Int(1),
            default="auto",
            source=SDK,
            note="steps between two evaluations on the validation rows",
        ),
        checkpoint_every=Unsupported("the service chooses when it keeps a checkpoint", source=SDK),
        keep_checkpoints=Unsupported(
            "how many checkpoints of a reinforcement job are kept is not published", source=SKILLS
        ),
    )


ABILITIES = core.Abilities(
    pause=True,
    base_serving=NotOffered("a base model answers only through a deployment: name a standing one as base_deployment"),
    billed_cost=NotOffered("the service reports the tokens it trained on, not what it billed"),
    deployment="required",
)

LIMITS = {
    method: core.Limits(
        format="openai_preference" if method == "dpo" else "openai",
        min_rows=10,
        max_bytes=512 * 1024**2,
        validation="used",
        source=f"{QUOTAS}; {LEARN}",
        note="tokens times epochs may not exceed two billion, nor a job 720 hours; 100 files and 1 GB a resource",
    )
    for method in ("sft", "dpo")
}
LIMITS["reinforcement"] = replace(
    LIMITS["sft"],
    format="openai_reinforcement",
    validation="required",
    source=f"{QUOTAS}; {SKILLS}",
    note="a job pauses at 5,000 USD, with a checkpoint that can be deployed",
)

AZURE = Service(
    title="Azure OpenAI",
    kind="azure",
    epochs_if_unset=bound_automatic_epochs,
    catalog=Path(__file__).with_name("catalog.toml"),
    sft=_adapt_declarations(openai.SFT),
    dpo=_adapt_declarations(openai.DPO),
    reinforcement=_adapt_to_reinforcement(),
    methods={**openai.METHODS, "reinforcement": True},
    adapters=openai.ADAPTERS,
    limits=LIMITS,
    abilities=ABILITIES,
    key_env="AZURE_OPENAI_API_KEY",
    key_in=("suffix",),
    longest_suffix=LONGEST_SUFFIX,
    upload_days=(14, 30),
    concurrency=3,
    concurrency_source=QUOTAS,
)


#: Options that travel among a reinforcement job's hyperparameters.
REINFORCEMENT_OPTIONS = ("compute_multiplier", "eval_samples", "reasoning_effort")


def reinforcement_options(target: core.Target) -> dict[str, object]:
    """Return the options of a reinforcement job that travel among its hyperparameters; empty for other methods."""
    if target.method != "reinforcement":
        return {}
    return {name: target.options[name] for name in REINFORCEMENT_OPTIONS if target.options.get(name) is not None}


def capabilities(target: core.Target, settings: AzureSettings) -> core.Capabilities:
    """Return what a target supports, with what the settings change: hosting price, base model, concurrency."""
    capabilities = AZURE.capabilities(target)
    if settings.deployment_sku == "DeveloperTier":
        price = capabilities.price
        note = f"{price.note}; a developer deployment has no hourly price and is removed after 24 hours"
        capabilities = replace(capabilities, price=replace(price, hosting=0.0, note=note.removeprefix("; ")))
    if settings.base_deployment:
        capabilities = replace(capabilities, abilities=replace(capabilities.abilities, base_serving=True))
    others = [name for name in REINFORCEMENT_OPTIONS if target.options.get(name) is not None]
    if others and target.method != "reinforcement":
        listed = ", ".join(f"provider_options.{target.provider}.{name}" for name in others)
        warning = f"{listed} is not sent: it is of method reinforcement"
        capabilities = replace(capabilities, warnings=(*capabilities.warnings, warning))
    training_type = target.options.get("training_type")
    if training_type == "developerTier":
        capabilities = replace(capabilities, concurrency=5)
    entry, _ = find_model(AZURE.known(), target.model)
    required_type = entry.facts.get("training_type")
    if required_type and training_type != required_type:
        warning = f"{entry.id} is trained as {required_type} only: set provider_options.{target.provider}.training_type"
        capabilities = replace(capabilities, warnings=(*capabilities.warnings, warning))
    if target.method in entry.facts.get("unverified_methods", ()):
        warning = (
            f"whether {entry.id} is tuned by {target.method} is unverified: {LEARN_MODELS} lists it, and {SKILLS}"
            " has it for GPT-4o and GPT-4.1 alone in its table, with an example for GPT-4.1 mini on another page"
        )
        capabilities = replace(capabilities, warnings=(*capabilities.warnings, warning))
    return capabilities
