"""Verification of a server against the golden set: whether the model that moved answers as the old one did."""

from __future__ import annotations

from llmtune.errors import InvalidJob, NotJudged
from llmtune.metrics.points import NotReported
from llmtune.rescues import golden_set
from llmtune.rescues.folder import Folder
from llmtune.rescues.golden_set import Questions, build_reference_rows
from llmtune.rescues.source import Say, short_name
from llmtune.verifications.endpoint import Endpoint
from llmtune.verifications.results import Verification
from llmtune.verifications.verify import Reference, verify_endpoint


def verify_server(folder: Folder, questions: Questions | None, server: Endpoint, say: Say) -> Verification:
    """Ask a server the questions of the golden set, and save the result in the folder.

    Raises:
        NotJudged: there is no golden set, or nothing answers at the address.
        InvalidJob: the old model was sampled, so that no two answers need be the same.
    """
    golden = folder.state.golden
    why = golden.reason if isinstance(golden, NotReported) else "there are no rows to ask"
    answers = {} if questions is None else golden_set.GoldenFile(folder.golden, questions).answers(questions)
    if questions is None or not answers:
        raise NotJudged(f"there is no golden set to verify {server.address} against: {why}")
    if questions.spec.temperature > 0:
        raise InvalidJob("the golden set was sampled, and only greedy answers can be compared")
    server.choose_model(short_name(folder.state.asked))
    requests = dict(zip(questions.keys, questions.requests, strict=True))
    reference = Reference(
        source="the old model's answers in golden.jsonl",
        rows=build_reference_rows(questions, answers),
        requests=[requests[key] for key in requests if key in answers],
        answers=[answers[key] for key in requests if key in answers],
        spec=questions.resolved_spec,
        labels=(),
    )
    folder.keep(note=f"{server.address} was asked {len(answers)} questions of the golden set")
    say(f"asking {server.address} for {server.model}: {len(answers)} questions of the golden set")
    result = verify_endpoint(server, reference)
    folder.write("verification.json", result.model_dump_json(indent=2) + "\n")
    folder.keep(verification=result)
    return result
