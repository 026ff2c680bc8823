"""Lambda as far as a grader needs it: functions that are called by name, for the fakes of Bedrock and SageMaker."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from llmtune.testing.http import Call, Refusal, Reply, route
from llmtune_bedrock import service_model
from llmtune_bedrock.fake.s3 import FakeS3


@lru_cache(maxsize=16)
def _load_handler(source: str) -> Any:
    """Return the handler of a source; Lambda too keeps a function's module between calls."""
    names: dict[str, Any] = {"__name__": "lambda_function"}
    exec(compile(source, "lambda_function.py", "exec"), names)
    return names["lambda_handler"]


class FakeFunctions(FakeS3):
    """Lambda at `url + "/lambda"`, beside S3. It runs the source of a function in this process."""

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        super().__init__(lag=lag, api_key=api_key)
        self.functions: dict[str, str] = {}
        """Functions that are deployed: ARN -> Python source with `lambda_handler`."""

    @property
    def lambda_url(self) -> str:
        """Where Lambda answers."""
        return f"{self.url}/lambda"

    def run_function(self, arn: str, event: Any) -> Any:
        """Return what a function answers; raises `LookupError` where there is none, and what its source raises."""
        handler = _load_handler(self.functions[arn])
        return json.loads(json.dumps(handler(json.loads(json.dumps(event)), None)))

    @route("POST", "/lambda/2015-03-31/functions/{function}/invocations")
    def invoke(self, call: Call) -> Any:
        """Call a function. What it raises is part of a good answer, which a header marks."""
        arn = call.params["function"]
        wrong = service_model.faults("lambda", "Invoke", {"FunctionName": arn})
        if wrong:
            call.refused += wrong
            raise Refusal(400, "; ".join(f"{path} {fault}" for path, fault in wrong), code="ValidationException")
        if arn not in self.functions:
            raise Refusal(404, f"Function not found: {arn}", code="ResourceNotFoundException")
        try:
            return self.run_function(arn, call.data)
        except Exception as error:  # noqa: BLE001 - whatever the function raises
            body = {"errorMessage": str(error), "errorType": type(error).__name__}
            return Reply(body, headers={"X-Amz-Function-Error": "Unhandled"})

    def score_rows(self, call: Call, arn: str, items: list[dict[str, Any]], *, wrapped: bool) -> None:
        """Score an empty answer to each row as a job does; refuse a function that gives one of them no score."""
        for item in items:
            if not item["messages"] or item["messages"][-1].get("role") != "user":
                call.refused.append(("training data", "a row does not end in the user's turn"))
                raise Refusal(400, "Every record must end with a user message.", code="ValidationException")
        answered = [
            {**item, "id": str(number), "messages": [*item["messages"], {"role": "assistant", "content": ""}]}
            for number, item in enumerate(items)
        ]
        try:
            results = self.run_function(arn, answered)
            results = json.loads(results["body"]) if wrapped else results
            scores = {entry["id"]: float(entry["aggregate_reward_score"]) for entry in results}
            assert set(scores) == {item["id"] for item in answered}
            assert all(entry["metrics_list"] for entry in results)
        except Exception as error:  # noqa: BLE001 - whatever the function raises, and every odd answer
            call.refused.append(("grader", f"{type(error).__name__}: {error}"))
            raise Refusal(
                400, f"The reward function failed: {type(error).__name__}: {error}", code="ValidationException"
            ) from None
