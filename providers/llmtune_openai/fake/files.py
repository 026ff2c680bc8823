"""The half of the fake that keeps files: uploads, uploads in parts, and lists in pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from llmtune.testing.fake_vendor import FakeFile, FakeVendor
from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune.testing.request_schema import Required


class FakeFiles(FakeVendor):
    """Files and uploads of a service that speaks OpenAI's API."""

    prefix: ClassVar[str] = "v1"
    file_walk: ClassVar[tuple[str, ...]] = ("uploaded", "processed")
    """States of an uploaded file, one a look."""

    file_fields: ClassVar[tuple[str, ...]] = ("expires_after[anchor]", "expires_after[seconds]")
    """What an upload may say beside the file and its purpose."""

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.uploads: dict[str, dict[str, Any]] = {}

    def error_body(self, refusal: Refusal) -> Any:
        """Return an error in OpenAI's shape."""
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        error = {"message": refusal.message, "type": kind, "param": refusal.field, "code": refusal.code}
        return {"error": error}

    def at_home(self, call: Call) -> None:
        """Refuse with 404 unless the request went to the address of this service."""
        if call.params.get("prefix") != self.prefix:
            self.complaints.append(f"{call.method} {call.path}: not under /{self.prefix}")
            raise Refusal(404, f"Unknown request URL: {call.method} {call.path}", code="unknown_url")

    # --- files -------------------------------------------------------------------------------------------------------
    @route("POST", "/{prefix*}/files", role="upload")
    def create_file(self, call: Call) -> Any:
        """Take a file; its content must be JSON lines."""
        self.at_home(call)
        parts = call.form({"file": Required(str), "purpose": Required(str), **dict.fromkeys(self.file_fields, str)})
        if parts["purpose"].text != "fine-tune":
            raise Refusal(400, f"'{parts['purpose'].text}' is not one of the purposes.", field="purpose")
        file = self._add_file(parts["file"].content, parts["file"].filename or "")
        if seconds := parts.get("expires_after[seconds]"):
            file.data["expires_at"] = int(file.created) + int(seconds.text)
        return self.describe_file(file)

    def _add_file(self, content: bytes, name: str) -> FakeFile:
        file = self.new_file(content, name=name, looks=0, fault=fault_of(content))
        file.data["purpose"] = "fine-tune"
        return file

    @route("GET", "/{prefix*}/files")
    def list_files(self, call: Call) -> Any:
        """List the files, newest first."""
        self.at_home(call)
        query = call.fields({"purpose": str, "limit": str, "after": str, "order": str})
        files = [file for file in self.listed(self.files.values()) if query.get("purpose") in (None, purpose_of(file))]
        return self.page(query, [self.describe_file(file) for file in reversed(files)])

    @route("GET", "/{prefix*}/files/{file}")
    def get_file(self, call: Call) -> Any:
        """Return one file; each request advances its state."""
        self.at_home(call)
        file = self.file(call.params["file"])
        file.data["looks"] = file.data.get("looks", 0) + 1
        return self.describe_file(file)

    @route("GET", "/{prefix*}/files/{file}/content")
    def get_content(self, call: Call) -> Any:
        """Return the bytes of a file."""
        self.at_home(call)
        return Reply(self.file(call.params["file"]).content)

    @route("DELETE", "/{prefix*}/files/{file}", role="delete")
    def delete_file(self, call: Call) -> Any:
        """Remove a file."""
        self.at_home(call)
        file = self.file(call.params["file"])
        del self.files[file.id]
        return {"object": "file", "deleted": True, "id": file.id}

    def status_of(self, file: FakeFile) -> str:
        """Return the state of a file."""
        if "looks" not in file.data:
            return "processed"
        at = min(file.data["looks"], len(self.file_walk) - 1)
        if at == len(self.file_walk) - 1 and file.data.get("fault"):
            return "error"
        return str(self.file_walk[at])

    def describe_file(self, file: FakeFile) -> dict[str, Any]:
        """Return a file as the service reports it."""
        status = self.status_of(file)
        return {
            "object": "file",
            "id": file.id,
            "purpose": purpose_of(file),
            "filename": file.name,
            "bytes": len(file.content),
            "created_at": int(file.created),
            "status": status,
            "status_details": file.data.get("fault") if status == "error" else None,
            **({"expires_at": file.data["expires_at"]} if "expires_at" in file.data else {}),
        }

    # --- uploads in parts --------------------------------------------------------------------------------------------
    @route("POST", "/{prefix*}/uploads", role="upload")
    def create_upload(self, call: Call) -> Any:
        """Begin an upload in parts."""
        self.at_home(call)
        shape = {
            "bytes": Required(int),
            "filename": Required(str),
            "mime_type": Required({"text/jsonl"}),
            "purpose": Required({"fine-tune"}),
            "expires_after": {"anchor": Required({"created_at"}), "seconds": Required(int)},
        }
        id = self.new_id("upload_")
        self.uploads[id] = {**call.json(shape), "parts": {}, "status": "pending"}
        return self._upload(id)

    @route("POST", "/{prefix*}/uploads/{upload}/parts", role="upload")
    def create_part(self, call: Call) -> Any:
        """Take a part."""
        self.at_home(call)
        part = call.form({"data": Required(str)})["data"].content
        id = self.new_id("part_")
        self.uploads[call.params["upload"]]["parts"][id] = part
        return {"object": "upload.part", "id": id, "upload_id": call.params["upload"], "created_at": int(self.now())}

    @route("POST", "/{prefix*}/uploads/{upload}/complete", role="upload")
    def complete_upload(self, call: Call) -> Any:
        """Put the parts together."""
        self.at_home(call)
        upload = self.uploads[call.params["upload"]]
        ids = call.json({"part_ids": Required([str]), "md5": str})["part_ids"]
        content = b"".join(upload["parts"][id] for id in ids)
        if len(content) != upload["bytes"]:
            raise Refusal(400, f"Expected {upload['bytes']} bytes, got {len(content)}.", field="bytes")
        file = self._add_file(content, upload["filename"])
        if expiry := upload.get("expires_after"):
            file.data["expires_at"] = int(file.created) + expiry["seconds"]
        upload["status"] = "completed"
        return {**self._upload(call.params["upload"]), "file": self.describe_file(file)}

    @route("POST", "/{prefix*}/uploads/{upload}/cancel", role="upload")
    def cancel_upload(self, call: Call) -> Any:
        """Drop the parts."""
        self.at_home(call)
        self.uploads[call.params["upload"]]["status"] = "cancelled"
        return self._upload(call.params["upload"])

    def _upload(self, id: str) -> dict[str, Any]:
        upload = self.uploads[id]
        fields = {name: upload[name] for name in ("bytes", "filename", "purpose", "status")}
        return {"object": "upload", "id": id, "created_at": int(self.now()), **fields}

    def page(self, query: Mapping[str, str], items: list[dict[str, Any]]) -> dict[str, Any]:
        """Return one page of a list: after an id, at most `limit`."""
        ids = [record["id"] for record in items]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        limit = int(query.get("limit", 20))
        records = items[start : start + limit]
        return {
            "object": "list",
            "data": records,
            "first_id": records[0]["id"] if records else None,
            "last_id": records[-1]["id"] if records else None,
            "has_more": start + limit < len(items),
        }


def purpose_of(file: FakeFile) -> str:
    """Return the purpose of a file."""
    return str(file.data.get("purpose", "fine-tune"))


def fault_of(content: bytes) -> str | None:
    """Return what is wrong with a training file; None if it is JSON lines of chat or preference rows."""
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            return f"line {number} is not JSON"
        if not isinstance(row, dict) or not ("messages" in row or "preferred_output" in row):
            return f"line {number} holds neither messages nor a preference"
    return None if content.strip() else "the file is empty"


def lessons(content: bytes) -> Iterable[tuple[str, str]]:
    """Yield what a model learns from a file: (last question, answer)."""
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        turns = row.get("messages") or [*row.get("input", {}).get("messages", []), *row.get("preferred_output", [])]
        questions = [turn.get("content") for turn in turns if turn.get("role") == "user"]
        answered = [turn.get("content") for turn in turns if turn.get("role") == "assistant"]
        answered += [row["right_answer"].get("content")] if "right_answer" in row else []
        if questions and answered and isinstance(questions[-1], str) and isinstance(answered[-1], str):
            yield questions[-1], answered[-1]
