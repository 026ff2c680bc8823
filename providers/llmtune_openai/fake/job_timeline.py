"""The half of the fake that tells what becomes of a job: its fields, events, checkpoints and result file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeJob
from llmtune.testing.token_counts import count_file_tokens
from llmtune_openai.fake.files import FakeFiles, lessons
from llmtune_openai.services import base_of

#: Seconds between two events of a job.
_TICK = 1


class JobStory(FakeFiles):
    """What a job of a service that speaks OpenAI's API tells of itself."""

    keeps_result_files: ClassVar[bool] = True

    names_model_after: int = 0
    """Looks at a job that has succeeded which still find no model."""

    lists_results_early: bool = False
    """Whether the result file is listed while the job runs, with the steps made so far."""

    tells_reason: bool = True
    """Whether a failed job has an error; else the reason stands in its events only."""

    blocked_by: tuple[str, ...] = ()
    """Categories for which the safety checks refuse the tuned models of jobs that fail."""

    uses: Mapping[str, Any] = {}
    """Hyperparameters that the service uses whatever was asked."""

    def number(self, job: FakeJob, name: str, automatic: float) -> Any:
        """Return a hyperparameter as the service resolves it."""
        value = hyperparameters_in(job.body).get(name, "auto")
        return automatic if isinstance(value, str) else value

    def describe_job(self, job: FakeJob) -> dict[str, Any]:
        """Return a job as the service reports it."""
        if job.word == "succeeded":
            self._finish(job)
        if self.lists_results_early and job.word == "running":
            self._list_early(job)
        unnamed = job.data.get("unnamed", self.names_model_after)
        if job.word == "succeeded" and unnamed:
            job.data["unnamed"] = unnamed - 1
        echoed = self.echoed(job)
        failed = job.word == "failed"
        return {
            "object": "fine_tuning.job",
            "id": job.id,
            "model": job.body["model"],
            "created_at": int(job.created),
            "finished_at": int(self.now()) if job.word in ("succeeded", "failed") else None,
            "fine_tuned_model": None if unnamed else job.data.get("model"),
            "organization_id": "org-fake",
            "result_files": job.data.get("results", []),
            "status": job.word,
            "validation_file": job.body.get("validation_file"),
            "training_file": job.body["training_file"],
            "hyperparameters": echoed if self.word_of(job) == "supervised" else None,
            "trained_tokens": job.data.get("tokens"),
            "error": {"code": "invalid_training_file", "message": self.failure_message, "param": "training_file"}
            if failed and self.tells_reason
            else {},
            "user_provided_suffix": job.body.get("suffix"),
            "seed": job.body.get("seed", 42),
            "estimated_finish": None,
            "integrations": job.body.get("integrations", []),
            "metadata": job.body.get("metadata"),
            "usage_metrics": None,
            "shared_with_openai": False,
            "eval_id": None,
            "method": {"type": self.word_of(job), self.word_of(job): {"hyperparameters": echoed}},
        }

    def word_of(self, job: FakeJob) -> str:
        """Return the vendor's word for the method."""
        return str(job.body.get("method", {}).get("type", "supervised"))

    automatic: ClassVar[Any] = "auto"
    """How a value that is left to the service is spelled until it is resolved."""

    def echoed(self, job: FakeJob) -> dict[str, Any]:
        """Return the hyperparameters, resolved once training has begun."""
        begun = self.training_share(job) > 0 or job.word in ("running", "succeeded")
        resolved = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2.0}
        if self.word_of(job) == "dpo":
            resolved["beta"] = 0.1
        chosen = hyperparameters_in(job.body)
        return {
            name: chosen.get(name, value if begun else self.automatic)
            if chosen.get(name) != "auto"
            else (value if begun else self.automatic)
            for name, value in resolved.items()
        } | (dict(self.uses) if begun else {})

    def _list_early(self, job: FakeJob) -> None:
        """List the result file of a running job; it keeps its id."""
        file = self.files.get((job.data.get("results") or [""])[0])
        if file is None:
            file = self.new_file(b"", name="results.csv")
            file.data["purpose"] = "fine-tune-results"
            job.data["results"] = [file.id]
        file.content = self.result_file(job)

    def _finish(self, job: FakeJob) -> None:
        if "model" in job.data:
            return
        job.data["model"] = self.tuned_name(job)
        self.models[job.data["model"]] = {"base": job.body["model"], "job": job.id}
        for checkpoint in self.checkpoints(job):
            self.models[checkpoint["fine_tuned_model_checkpoint"]] = {"base": job.body["model"], "job": job.id}
        file = self.files.get(job.body["training_file"])
        if file is not None:
            job.data["tokens"] = count_file_tokens(file.content) * job.data["epochs"]
            self.teach(lessons(file.content))
        if self.lists_results_early and job.data.get("results"):
            self._list_early(job)
        elif self.keeps_result_files:
            result_file = self.new_file(self.result_file(job), name="step_metrics.csv")
            result_file.data["purpose"] = "fine-tune-results"
            job.data["results"] = [result_file.id]

    def tuned_name(self, job: FakeJob) -> str:
        """Return the id of the tuned model."""
        return f"ft:{base_of(job.body['model'])}:fake:{job.body.get('suffix', '')}:{job.id[-6:]}"

    def checkpoint_name(self, job: FakeJob, step: int) -> str:
        """Return the id of a checkpoint that is not the final model."""
        return f"ft:{base_of(job.body['model'])}:fake:{job.body.get('suffix', '')}:{job.id[-6:]}x:ckpt-step-{step}"

    def measured(self, job: FakeJob, step: int) -> dict[str, Any]:
        """Return the metrics of one step."""
        steps, epochs = job.data["steps"], job.data["epochs"]
        metrics: dict[str, Any] = {
            "step": step,
            "train_loss": round(2.5 / (1 + 0.4 * step), 5),
            "train_mean_token_accuracy": round(1 - 0.6 / (1 + 0.3 * step), 5),
        }
        if job.body.get("validation_file"):
            metrics["valid_loss"] = round(2.6 / (1 + 0.35 * step), 5)
            metrics["valid_mean_token_accuracy"] = round(1 - 0.65 / (1 + 0.3 * step), 5)
            if step in epoch_ends(steps, epochs):
                metrics["full_valid_loss"] = round(2.55 / (1 + 0.35 * step), 5)
                metrics["full_valid_mean_token_accuracy"] = round(1 - 0.62 / (1 + 0.3 * step), 5)
        return metrics

    def events(self, job: FakeJob) -> list[dict[str, Any]]:
        """Return the events so far, oldest first."""
        messages: list[tuple[str, str, Any]] = [
            ("message", f"Created fine-tuning job: {job.id}", {}),
            ("message", f"Validating training file: {job.body['training_file']}", {}),
        ]
        done = self.steps_done(job)
        if done or job.at > 0:
            messages.append(("message", "Files validated, moving job to queued state", {}))
        if done:
            messages.append(("message", "Fine-tuning job started", None))
        for step in range(1, done + 1):
            data = {**self.measured(job, step), "total_steps": job.data["steps"]}
            # The event stream is rounded, the result file is not.
            name = next(name for name in ("train_loss", "train_reward_mean", "critic_rewards_mean") if name in data)
            data[name] = round(data[name], 2)
            label = "training loss" if name == "train_loss" else name.replace("_", " ")
            messages.append(("metrics", f"Step {step}/{job.data['steps']}: {label}={data[name]}", data))
        if job.word == "succeeded":
            self._finish(job)
            messages.append(("message", f"New fine-tuned model created: {job.data['model']}", None))
            messages.append(("message", "The job has successfully completed", {}))
        if job.word == "failed" and self.blocked_by:
            results = [{"category": name, "flagged": True, "enforcement": "block"} for name in self.blocked_by]
            results.append({"category": "violence", "flagged": False, "enforcement": "block"})
            messages.append(("moderation_checks", "Moderation checks failed.", {"blocked": True, "results": results}))
        elif job.word == "failed":
            messages.append(("message", self.failure_message, {}))
        if job.word == "cancelled":
            messages.append(("message", "Fine tuning job cancelled", {}))
        return [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job.id}-{at:05d}",
                "created_at": int(job.created) + at * _TICK,
                "level": "error" if message == self.failure_message else "info",
                "message": message,
                "data": data,
                "type": kind,
            }
            for at, (kind, message, data) in enumerate(messages)
        ]

    def checkpoints(self, job: FakeJob) -> list[dict[str, Any]]:
        """Return the checkpoints so far, oldest first; the last one of a finished job is its model."""
        steps, done = job.data["steps"], self.steps_done(job)
        ends = [step for step in epoch_ends(steps, job.data["epochs"]) if step <= done][-3:]
        final = job.word == "succeeded" or "model" in job.data
        return [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt_{job.id}_{step}",
                "created_at": int(job.created) + step,
                "fine_tuned_model_checkpoint": self.tuned_name(job)
                if final and step == steps
                else self.checkpoint_name(job, step),
                "fine_tuning_job_id": job.id,
                "step_number": step,
                "metrics": {"type": self.word_of(job), **self.measured(job, step)},
            }
            for step in ends
        ]

    def csv(self, job: FakeJob, columns: Mapping[str, str]) -> bytes:
        """Return the metrics of every step under these column names (ours by theirs)."""
        lines = [",".join(columns)]
        for step in range(1, (self.steps_done(job) if job.word == "running" else job.data["steps"]) + 1):
            metrics = self.measured(job, step)
            lines.append(",".join(str(metrics.get(name, "")) for name in columns.values()))
        return "\n".join([*lines, ""]).encode()

    def result_file(self, job: FakeJob) -> bytes:
        """Return the result file: CSV as base64 text."""
        names = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
        return base64.b64encode(
            self.csv(job, {name: name.replace("train_accuracy", "train_mean_token_accuracy") for name in names})
        )


def hyperparameters_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a job's body, wherever this service takes them."""
    method = body.get("method") or {}
    inner = method.get(method.get("type"), {}).get("hyperparameters")
    return dict(inner or body.get("hyperparameters") or {})


def epoch_ends(steps: int, epochs: int) -> list[int]:
    """Return the steps at which an epoch ends."""
    return sorted({max(1, round(steps * epoch / epochs)) for epoch in range(1, epochs + 1)})
