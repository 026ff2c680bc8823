"""The files of the fake: uploaded in three steps, checked by the service, previewed as tokens."""

from __future__ import annotations

import json
from typing import Any

from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.http import Call, Reply, route
from llmtune.testing.request_schema import Required


class FakeFiles(FakeVendor):
    """Files and their preview."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.checks = 1
        """Looks at a file until it counts as checked."""

        self.refuse_files = ""
        """What the file check finds wrong with every file; empty: nothing."""

    # --- files -------------------------------------------------------------------------------------------------------
    @route("POST", "/v1/files", role="upload")
    def start_upload(self, call: Call) -> Any:
        parts = call.form(
            {"purpose": Required(str), "file_name": Required(str), "file_type": Required(str), "checksum": str}
        )
        purpose, name = parts["purpose"].text, parts["file_name"].text
        call.hold_to(purpose, {"fine-tune"}, "purpose")
        file = self.new_file(b"", name=name, looks=0, ready=False)
        return Reply(None, 302, {"Location": f"{self.url}/storage/{file.id}", "X-Together-File-Id": file.id})

    @route("PUT", "/storage/{file}", role="upload")
    def put_content(self, call: Call) -> Any:
        self.file(call.params["file"]).content = call.body
        return Reply(b"", 200)

    @route("POST", "/v1/files/{file}/preprocess", role="upload")
    def finish_upload(self, call: Call) -> Any:
        file = self.file(call.params["file"])
        file.data["ready"] = True
        return self._file(file.id)

    @route("GET", "/v1/files", role="find")
    def list_files(self, call: Call) -> Any:
        return {"data": [self._file(file.id) for file in self.listed(self.files.values()) if file.data["ready"]]}

    @route("GET", "/v1/files/{file}", role="upload")
    def get_file(self, call: Call) -> Any:
        self.file(call.params["file"]).data["looks"] += 1
        return self._file(call.params["file"])

    @route("GET", "/v1/files/{file}/content")
    def get_content(self, call: Call) -> Any:
        return Reply(self.file(call.params["file"]).content)

    @route("DELETE", "/v1/files/{file}", role="delete")
    def delete_file(self, call: Call) -> Any:
        del self.files[self.file(call.params["file"]).id]
        return {"id": call.params["file"], "deleted": True}

    def _file(self, id: str) -> dict[str, Any]:
        file = self.files[id]
        status = "COMPLETED"
        report: dict[str, Any] = {"valid": True, "nlines": file.content.count(b"\n")}
        if self.refuse_files:
            status, report = "INVALID_FORMAT", {"valid": False, "error": self.refuse_files}
        elif file.data["looks"] < self.checks:
            status, report = "QUEUED", {}
        return {
            "id": id,
            "object": "file",
            "created_at": int(file.created),
            "filename": file.name,
            "bytes": len(file.content),
            "purpose": "fine-tune",
            "FileType": "jsonl",
            "Processed": status == "COMPLETED",
            "processing_status": status,
            **({"validation_report": report} if report else {}),
        }

    @route("POST", "/v1/fine-tunes/preview")
    def preview(self, call: Call) -> Any:
        body = call.json(
            {
                "model": Required(str),
                "training_file": Required(str),
                "top_k": int,
                "train_on_inputs": bool,
                "training_method": {"sft"},
            }
        )
        lines = self.file(body["training_file"]).content.splitlines()[: body.get("top_k", 5)]
        prompts_too = body.get("train_on_inputs", False)
        return {
            "dataset_format": "conversation",
            "max_seq_length": 32768,
            "model": body["model"],
            "rows": [_preview_row(json.loads(line), prompts_too) for line in lines],
            "train_on_inputs": prompts_too,
        }

    def authorised(self, call: Call) -> bool:
        # Contents go to a presigned address, which needs no key.
        return call.path.startswith("/storage/") or super().authorised(call)


def _preview_row(row: dict[str, Any], prompts_too: bool) -> dict[str, Any]:
    tokens: list[str] = []
    trained: list[bool] = []
    for turn in row["messages"]:
        pieces = [f"<{turn['role']}>", *str(turn["content"]).split(), "</s>"]
        tokens += pieces
        learns = prompts_too or turn["role"] == "assistant"
        trained += [False if at == 0 else learns for at in range(len(pieces))]
    ids = list(range(100, 100 + len(tokens)))
    return {
        "input_ids": ids,
        "labels": [id if learns else -100 for id, learns in zip(ids, trained, strict=True)],
        "num_tokens": len(tokens),
        "num_trained_tokens": sum(trained),
        "tokens": tokens,
        "trained_spans": [],
        "truncated": False,
    }


def lesson(content: bytes) -> list[tuple[str, str]]:
    """Return what a model learns from a file: the last question of each row and its answer."""
    pairs = []
    for line in content.splitlines():
        row = json.loads(line)
        turns = [*row.get("messages", ()), *row.get("input", {}).get("messages", ()), *row.get("preferred_output", ())]
        questions = [turn["content"] for turn in turns if turn["role"] == "user"]
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        if questions and answers:
            pairs.append((questions[-1], answers[-1]))
    return pairs
