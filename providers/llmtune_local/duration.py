"""How long a run will take: from the speed of an earlier one, else roughly from parameters and cores. Loads nothing.

Training takes about 6 floating-point operations a parameter and token (2 forward, 4 backward), with an adapter about 4:
the frozen weights need no gradient of their own (Kaplan et al., arXiv:2001.08361, 2020, section 2.1; Hu et al.,
arXiv:2106.09685, 2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.provider import Duration, Span
from llmtune_local.default_settings import count_parameters
from llmtune_local.libraries import usable_cores
from llmtune_local.models.memory_estimate import current_device
from llmtune_local.requests import count_questions
from llmtune_local.run_state.schema import WorkerOptions
from llmtune_local.training.time_left import ANSWER_COST, PASSES_PER_STEP

if TYPE_CHECKING:
    from llmtune.provider import FindSpeed, MeasuredSpeed, Receipt

#: Floating-point operations a second that training reaches, low and high: of one CPU core, and of a whole device.
_OPERATIONS = {"cpu": (1.2e10, 4e10), "mps": (5e11, 5e12), "cuda": (1e13, 1.5e14)}
#: Tokens a second that a GPU does not exceed on small models, whose time goes into starting its kernels.
_MOST_TOKENS = {"mps": (5e3, 5e4), "cuda": (2e4, 3e5)}
#: Seconds in which a worker starts and loads libraries, rows and model.
_START = (5.0, 20.0)
#: Seconds in which the models of the evaluation are loaded.
_LOAD = (2.0, 10.0)
#: The time of a run beside the speed that another one measured.
_AROUND = (0.8, 1.5)
#: Training on sampled answers, and sampling them token by token, in trainings on as many tokens.
_SAMPLING = 3.0
#: Validation comes on top of training.
_VALIDATION = 1.2


def estimate_duration(receipt: Receipt, find_speed: FindSpeed) -> Duration:
    """Estimate the time of a planned run on this machine."""
    tokens = _count_tokens(receipt)
    if tokens is None:
        return Duration(unknown="the training rows could not be counted")
    options = receipt.target.options
    device = current_device(options.get("device", "auto"))
    speed = find_speed(device)
    if speed is not None:
        return _from_speed(receipt, tokens, speed)
    parameters = count_parameters(receipt.target.model, options.get("revision"))
    if parameters is None:
        return Duration(unknown="the model is not on this machine yet, and its name does not say its size")
    return _from_operations(receipt, tokens, parameters, device)


def _count_tokens(receipt: Receipt) -> float | None:
    """Return the tokens of all steps, by the plan's own count; both answers of a pair are trained.

    Sampled answers are taken to be as long as the right ones.
    """
    rows, per_epoch = receipt.data.rows.get("train", 0), receipt.data.tokens
    if not rows or not per_epoch:
        return None
    if receipt.target.method == "reinforcement":
        per_epoch *= int(receipt.target.options.get("samples_per_prompt", WorkerOptions().samples_per_prompt))
    epochs = float(receipt.effective("epochs", 1))
    if steps := receipt.effective("max_steps"):
        epochs = min(epochs, int(steps) * int(receipt.effective("batch_size", 1)) / rows)
    return epochs * per_epoch


def _from_speed(receipt: Receipt, tokens: float, speed: MeasuredSpeed) -> Duration:
    low, high = _AROUND
    training = tokens / speed.tokens_per_second
    evaluation = None
    if questions := count_questions(receipt):
        row = _row_tokens(receipt) / speed.tokens_per_second / PASSES_PER_STEP
        seconds_per_question = speed.seconds_per_question or row * ANSWER_COST.get(receipt.target.method, 1.0)
        evaluation = Span(low=low * seconds_per_question * questions, high=high * seconds_per_question * questions)
    return Duration(
        training=Span(low=low * training, high=high * training),
        evaluation=evaluation,
        source=f"by the speed of run {speed.run} ({speed.tokens_per_second:,.0f} tokens/s in all)",
        measured=True,
    )


def _from_operations(receipt: Receipt, tokens: float, parameters: int, device: str) -> Duration:
    cores = _count_cores(receipt.target.options)
    slow, fast = _tokens_per_second(parameters, receipt.target.adapter, device, cores)
    validates = bool(receipt.data.rows.get("validation"))
    if receipt.target.method == "reinforcement":
        tokens *= _SAMPLING
    training = estimate_training(parameters, receipt.target.adapter, tokens, device, cores, validates=validates)
    evaluation = None
    if questions := count_questions(receipt):
        cost = questions * _row_tokens(receipt) * ANSWER_COST.get(receipt.target.method, 1.0) / PASSES_PER_STEP
        evaluation = Span(low=_LOAD[0] + cost / fast, high=_LOAD[1] + cost / slow)
    where = f"{cores} core{'s' * (cores != 1)}" if device == "cpu" else device
    return Duration(
        training=training,
        evaluation=evaluation,
        source=f"rough: from {_format(parameters)} parameters on {where}, measured on no run yet",
    )


def estimate_training(
    parameters: int, adapter: str, tokens: float, device: str, cores: int, *, validates: bool
) -> Span:
    """Return about how many seconds training on so many tokens takes, validation and the start of a worker included."""
    slow, fast = _tokens_per_second(parameters, adapter, device, cores)
    tokens *= _VALIDATION if validates else 1.0
    return Span(low=_START[0] + tokens / fast, high=_START[1] + tokens / slow)


def _tokens_per_second(parameters: int, adapter: str, device: str, cores: int) -> tuple[float, float]:
    """Return the training speed, low and high."""
    units = cores if device == "cpu" else 1
    per_token = parameters * (6.0 if adapter == "full" else 4.0)
    slow, fast = (
        min(units * operations / per_token, max_tokens)
        for operations, max_tokens in zip(_OPERATIONS[device], _MOST_TOKENS.get(device, (1e9, 1e9)), strict=True)
    )
    return slow, fast


def _row_tokens(receipt: Receipt) -> float:
    return (receipt.data.tokens or 0) / max(1, receipt.data.rows.get("train", 1))


def _count_cores(options: dict[str, Any]) -> int:
    threads = int(options.get("num_threads") or 0)
    return min(threads, usable_cores()) if threads else usable_cores()


def _format(parameters: int) -> str:
    return f"{parameters / 1e9:.3g} billion" if parameters >= 1e9 else f"{parameters / 1e6:.3g} million"
