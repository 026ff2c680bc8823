"""A stand-in for Acme: it keeps files, walks jobs through their states, and refuses what Acme would refuse."""

import json
import math

from llmtune.testing import FakeVendor, Phase, Refusal, Required, route

TUNE = {
    "model": Required({"acme-small"}),
    "file": Required(str),
    "settings": {"epochs": int, "rate": float, "rank": {8, 16, 32}},
    "name": str,
    "label": str,
}
CHAT = {
    "model": Required(str),
    "messages": Required([{"role": Required({"system", "user", "assistant"}), "content": Required(str)}]),
    "temperature": float,
    "max_tokens": int,
}


class FakeAcme(FakeVendor):
    name = "acme"
    walks = {
        "success": (Phase("waiting"), Phase("training", looks=3, training=True), Phase("done")),
        "failure": (Phase("waiting"), Phase("training", training=True), Phase("broken")),
        "cancelled": (Phase("stopping"), Phase("stopped")),
    }

    @route("POST", "/v1/files", role="upload")
    def keep_file(self, call):
        return {"id": self.new_file(call.body).id}

    @route("GET", "/v1/files", role="find")
    def find_files(self, call):
        digest = call.fields({"sha256": Required(str)})["sha256"]
        return {"files": [{"id": file.id} for file in self.listed(self.files.values()) if file.sha256 == digest]}

    @route("DELETE", "/v1/files/{file}", role="delete")
    def delete_file(self, call):
        return {"id": self.files.pop(self.file(call.params["file"]).id).id}

    @route("POST", "/v1/tunes", role="submit")
    def create_tune(self, call):
        body = call.json(TUNE)
        rows = [json.loads(line)["messages"] for line in self.file(body["file"]).content.splitlines()]
        self.teach((row[-2]["content"], row[-1]["content"]) for row in rows)
        return {"id": self.new_job(body, key=body.get("label"), prefix="tune-").id}

    @route("GET", "/v1/tunes", role="find")
    def find_tunes(self, call):
        label = call.fields({"label": Required(str)})["label"]
        return {"tunes": [{"id": job.id} for job in self.listed(self.jobs.values()) if job.key == label]}

    @route("GET", "/v1/tunes/{tune}", role="poll")
    def get_tune(self, call):
        job = self.job(call.params["tune"])
        state = self.look(job)
        tuned = f"{job.body['model']}:{job.id}" if state == "done" else None
        if tuned:
            self.models[tuned] = {"base": job.body["model"]}
        return {
            "id": job.id,
            "state": state,
            "model": job.body["model"],
            "tuned": tuned,
            "losses": [{"step": step, "value": 2 * math.exp(-step / 5)} for step in range(1, self.steps_done(job) + 1)],
            "error": self.failure_message if state == "broken" else None,
        }

    @route("POST", "/v1/tunes/{tune}/stop", role="cancel")
    def stop_tune(self, call):
        self.cancel_job(self.job(call.params["tune"]))
        return {}

    @route("DELETE", "/v1/models/{model*}", role="delete")
    def delete_model(self, call):
        if self.models.pop(call.params["model"], None) is None:
            raise Refusal(404, "There is no such model.", code="not_found")
        return {}

    @route("POST", "/v1/chat", role="generate")
    def chat(self, call):
        body = call.json(CHAT)
        question = body["messages"][-1]["content"]
        text = self.say(question, tuned=body["model"] in self.models)
        return {"text": text, "read": len(question.split()), "written": len(text.split())}
