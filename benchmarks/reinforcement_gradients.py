"""Gradients of a reinforcement step of the local trainer beside those of TRL's GRPOTrainer, on the same answers.

    pip install 'llmtune-sdk[local,bench]'
    python benchmarks/reinforcement_gradients.py

The embedded model with a LoRA adapter that is no longer zero samples a batch of answers, and a grader scores them. TRL
is handed the tokens and the rewards by its `rollout_func`, and computes everything else itself: advantages, the KL to
the model without its adapter, likelihoods, loss. Two updates are made on the same answers, by plain gradient descent,
so that the second one has ratios that are not 1, and some that are clipped. What must hold: no element of a gradient is
further than 1e-4 from TRL's, as a share of that gradient's largest element.

TRL's `use_bias_correction_kl` is off: it weighs the KL by the ratio (arXiv:2512.02556), which is another estimate than
that of arXiv:2402.03300.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MOST_DIFFERENCE = 1e-4

PROMPTS, SAMPLES, ANSWER_TOKENS, BETA, CLIP, RATE = 4, 4, 12, 0.04, 0.05, 0.3

#: Our normalisations, and the loss types of TRL that they are.
LOSS_TYPES = {"grpo": "grpo", "dapo": "dapo", "dr_grpo": "dr_grpo"}

#: Pays the share of vowels, so that no two answers are paid alike.
GRADER = {
    "kind": "python",
    "source": "def grade(row, answer):\n    return sum(map(answer.count, 'aeiou')) / (len(answer) + 1)\n",
}


@dataclass(frozen=True)
class Updates:
    """Two updates on the same answers: gradients by parameter, and the share of clipped tokens in the second."""

    gradients: list[dict[str, torch.Tensor]]
    clipped: float


def move_adapter(model: Any) -> None:
    """Give every matrix of the adapter values, so that it differs from the model without it."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05


def run_ours(folder: Path, normalisation: str, temperature: float) -> tuple[Any, Updates]:
    """Sample a step's answers and make two updates on them; return the trainer too, whose answers TRL is handed."""
    from llmtune.graders import GraderProcess, make_grader
    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.run_state.schema import RunRequest
    from llmtune_local.run_state.status_writer import StatusWriter
    from llmtune_local.training.grpo_trainer import ReinforcementTrainer

    draw = random.Random(7)
    words = ("again", "lamp", "kettle", "parcel", "seven", "two")
    rows = [
        {"messages": [{"role": "user", "content": " ".join(draw.choices(words, k=draw.randint(2, 30)))}]}
        for _ in range(PROMPTS)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    request = RunRequest.model_validate(
        {
            "model": "tiny",
            "method": "reinforcement",
            "adapter": "lora",
            "grader": GRADER,
            "files": {"train": str(folder / "prompts.jsonl")},
            "hyperparameters": {"batch_size": PROMPTS, "max_steps": 1, "epochs": 1, "learning_rate": RATE},
            "options": {
                "device": "cpu",
                "dtype": "float32",
                "samples_per_prompt": SAMPLES,
                "answer_tokens": ANSWER_TOKENS,
                "answer_temperature": temperature,
                "loss_normalisation": normalisation,
                "kl_beta": BETA,
                "clip": CLIP,
            },
        }
    )
    run = RunDir(folder / "run")
    run.write_request(request)
    gradients, clipped = [], 0.0
    with StatusWriter(run) as journal, GraderProcess(make_grader(GRADER)) as grader:
        trainer = ReinforcementTrainer(run, request, journal, lambda: False)
        trainer.grader = grader
        trainer.setup()
        move_adapter(trainer.model)
        start = {name: parameter.data.clone() for name, parameter in trainer.model.named_parameters()}
        for trainer._update in range(2):
            _, values = trainer._compute_gradient(0)
            clipped = values["train/clipped_tokens"]
            gradients.append(
                {
                    name: parameter.grad.clone()
                    for name, parameter in trainer.model.named_parameters()
                    if parameter.requires_grad and parameter.grad is not None
                }
            )
            for parameter in trainer.trained:
                assert parameter.grad is not None
                parameter.data -= RATE * parameter.grad
        for name, parameter in trainer.model.named_parameters():
            parameter.data = start[name]
    return trainer, Updates(gradients, clipped)


def run_trl(trainer: Any, folder: Path, normalisation: str, temperature: float) -> Updates:
    """Make the same two updates by TRL, on the answers and rewards of our trainer's step."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from llmtune_local.models.hub import locate

    answers = trainer._rollout.answers
    gradients: list[dict[str, torch.Tensor]] = []

    class Reader(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            named = objects["model"].named_parameters()
            gradients.append({name: weights.grad.clone() for name, weights in named if weights.grad is not None})

    def hand_over(prompts: list[Any], _: Any) -> dict[str, Any]:
        assert prompts == [str(answer.tokens.group) for answer in answers]
        return {
            "prompt_ids": [list(answer.tokens.prompt) for answer in answers],
            "completion_ids": [list(answer.tokens.answer) for answer in answers],
            "logprobs": None,
            "paid": [answer.reward for answer in answers],
        }

    def read_rewards(paid: list[float], **_: Any) -> list[float]:
        return paid

    settings = GRPOConfig(
        output_dir=str(folder / "trl"),
        loss_type=LOSS_TYPES[normalisation],
        scale_rewards="none" if normalisation == "dr_grpo" else "group",
        beta=BETA,
        use_bias_correction_kl=False,
        epsilon=CLIP,
        temperature=temperature,
        num_generations=SAMPLES,
        num_iterations=2,
        max_completion_length=ANSWER_TOKENS,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        max_steps=2,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        bf16=False,
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    ours = trainer.model.peft_config["default"]
    theirs = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(locate("tiny"), dtype=torch.float32),
        peft_config=LoraConfig(
            r=ours.r, lora_alpha=ours.lora_alpha, target_modules=ours.target_modules, task_type="CAUSAL_LM"
        ),
        args=settings,
        reward_funcs=read_rewards,
        rollout_func=hand_over,
        processing_class=trainer.tokenizer,
        train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(PROMPTS)]),
        callbacks=[Reader()],
    )
    theirs.remove_callback(PrinterCallback)
    weights = {name: parameter.data for name, parameter in trainer.model.named_parameters()}
    for name, parameter in theirs.model.named_parameters():
        parameter.data.copy_(weights[name])
    theirs.train()
    logs = [entry for entry in theirs.state.log_history if "clip_ratio/region_mean" in entry]
    return Updates(gradients, float(logs[-1]["clip_ratio/region_mean"]))


def find_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any element, as a share of the largest element of all."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours) / largest


def main() -> int:
    """Compare, print the table; return 0 where all differences are small enough."""
    import transformers
    import trl

    print(f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, float32")
    print("loss_type  temperature  difference, 1st update  2nd update  clipped in the 2nd: ours, TRL", flush=True)
    worst = 0.0
    for normalisation in LOSS_TYPES:
        for temperature in (1.0, 0.7):
            with tempfile.TemporaryDirectory() as name:
                trainer, ours = run_ours(Path(name), normalisation, temperature)
                theirs = run_trl(trainer, Path(name), normalisation, temperature)
            pairs = zip(ours.gradients, theirs.gradients, strict=True)
            differences = [find_difference(own, other) for own, other in pairs]
            worst = max(worst, *differences)
            print(
                f"{normalisation:9}  {temperature:11}  {differences[0]:22.1e}  {differences[1]:10.1e}"
                f"  {ours.clipped:24.3f}, {theirs.clipped:.3f}",
                flush=True,
            )
    print(f"the largest difference is {worst:.1e} (at most {MOST_DIFFERENCE:g})")
    return 0 if worst <= MOST_DIFFERENCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
