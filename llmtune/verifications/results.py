"""The result of a verification: plain values that can be stored as JSON, each difference named by its kind."""

from __future__ import annotations

from typing import Literal

from llmtune._models import DocumentedModel
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.points import NotReported, Number
from llmtune.provider.abilities import ExportFormat, Precision

#: Exit codes of a verification, by its verdict.
EXIT_CODES = {"same": 0, "drift": 5, "unclear": 6}

#: The same server as was measured, another one, or too little to tell.
VerificationVerdict = Literal["same", "drift", "unclear"]

#: The kinds of differences, each with what it means. docs/verify.md has the table.
KINDS: dict[str, str] = {
    # what the model is given
    "system_turn_added": "the server puts a system turn in front that no request holds",
    "system_turn_dropped": "the system turn of a request does not reach the model",
    "system_turn_changed": "another system turn stands in the place of the request's",
    "system_turn_in_user": "the system turn is written into the user's",
    "beginning_token_twice": "the beginning token stands twice",
    "beginning_token_added": "a token stands in front that the template does not write",
    "beginning_token_missing": "the beginning token is missing",
    "generation_prompt_missing": "the beginning of the answer's turn is missing",
    "generation_prompt_differs": "the answer's turn begins with something that the template does not write",
    "earlier_turns_dropped": "only the last turn of a conversation reaches the model",
    "tools_not_rendered": "the tools of a request do not reach the model",
    "prompt_cut": "long prompts are cut",
    "blanks_changed": "blanks and line ends of turns are changed",
    "special_tokens_as_text": "the marks of turns are read as plain text",
    "tokenizer_differs": "the same text is read as other tokens",
    "template_differs": "another chat template is used",
    # how the answer is made
    "sampling_on": "answers are sampled although temperature is 0",
    "sampling_settings": "the server's own settings, such as a penalty on repetition, change greedy answers",
    "answers_swapped": "parallel questions get each other's answers",
    "stop_not_honoured": "the end of a turn is not honoured: answers run on",
    "answers_cut": "answers are cut although more tokens were allowed",
    "max_tokens_ignored": "max_tokens is ignored",
    "stop_ignored": "stop texts of a request are ignored",
    # how the answer is written
    "end_token_in_answer": "the token that ends a turn stands in the answer",
    "prompt_in_answer": "the answer repeats the prompt",
    "role_in_answer": "the answer begins with the mark of its turn",
    "answer_in_reasoning": "the answer comes as reasoning, and the content is empty",
    "answers_empty": "answers are empty",
    "answers_rewritten": "the text of answers is changed on its way",
    "finish_reason_differs": "finish_reason is wrong",
    "tool_calls_as_text": "tool calls come as text",
    "tool_arguments_not_text": "arguments of tool calls come as an object, not as JSON text",
    "stream_differs": "a streamed answer has another text",
    "stream_broken": "an answer that was asked for as a stream does not come as one",
    "rows_refused": "questions are refused",
    # which model answers
    "base_model_answers": "the base model answers, not the tuned one",
    "another_model_answers": "another model answers",
    "weights_differ": "the weights are rounded, merged or adapted otherwise",
}

#: Those of them that are about what the model is given.
PROMPT_KINDS = frozenset(list(KINDS)[: list(KINDS).index("sampling_on")])

#: The kind of a difference between a server and the model that was measured.
DifferenceKind = Literal[
    "system_turn_added",
    "system_turn_dropped",
    "system_turn_changed",
    "system_turn_in_user",
    "beginning_token_twice",
    "beginning_token_added",
    "beginning_token_missing",
    "generation_prompt_missing",
    "generation_prompt_differs",
    "earlier_turns_dropped",
    "tools_not_rendered",
    "prompt_cut",
    "blanks_changed",
    "special_tokens_as_text",
    "tokenizer_differs",
    "template_differs",
    "sampling_on",
    "sampling_settings",
    "answers_swapped",
    "stop_not_honoured",
    "answers_cut",
    "max_tokens_ignored",
    "stop_ignored",
    "end_token_in_answer",
    "prompt_in_answer",
    "role_in_answer",
    "answer_in_reasoning",
    "answers_empty",
    "answers_rewritten",
    "finish_reason_differs",
    "tool_calls_as_text",
    "tool_arguments_not_text",
    "stream_differs",
    "stream_broken",
    "rows_refused",
    "base_model_answers",
    "another_model_answers",
    "weights_differ",
]

#: How prompts could be compared: token by token, by their numbers of tokens, or not at all.
PromptEvidence = Literal["tokens", "counts", "none"]


class Difference(DocumentedModel):
    """One difference between a server and the model that was measured: its `kind`, and in `says` one sentence."""

    kind: DifferenceKind
    says: str
    drift: bool = True
    """Whether the server is another one by this alone. Where not, the scores of its answers decide."""

    rows: tuple[int, ...] = ()
    """Verified rows that show it, from 1; empty where questions of other kinds showed it."""


class VerifiedExport(DocumentedModel):
    """The exported model that a verification is about, which was served on this machine for it.

    `format` is its form, and `folder` where it was written, as a full path.
    """

    format: ExportFormat
    precision: Precision | None = None
    """Of the matrices in GGUF files; None for the precision in which the model was trained or published."""

    folder: str
    program: str
    """What served it, with its version."""


class Verification(DocumentedModel):
    """Whether a server answers as the model does that was measured.

    `endpoint` is its address, or the folder of an `export`, and `model` the name that was asked for; `run` is the run
    whose model it should be, or empty. `rows` held-out rows were asked. `verdict` and `reason` are the result,
    `differences` what was found, `notes` what could not be checked. `seconds` is how long it took and `finished` when
    it ended (seconds since 1970 UTC).
    """

    endpoint: str
    model: str
    export: VerifiedExport | None = None
    """What was exported, where an export was verified; None for a server."""

    run: str = ""
    source: str
    """Where the answers come from that it is compared with, in words."""

    rows: int
    verdict: VerificationVerdict
    reason: str
    differences: tuple[Difference, ...] = ()
    prompts: PromptEvidence = "none"
    """How prompts could be compared."""

    prompts_compared: int = 0
    """Prompts of rows of which the server shows something."""

    prompts_same: int = 0
    """How many of them are as they should be."""

    answers_same: int = 0
    """Answers with the same text and tool calls, outer blanks and the spelling of JSON aside."""

    answers_tied: int = 0
    """Answers that differ where the model itself finds both about equally likely, as rounding decides."""

    likelihood_gap: float | NotReported = NotReported("the server reports no likelihoods")
    """Mean distance of the tokens' log-likelihoods from the model's own, in nats per token, over equal answers."""

    comparison: Comparison | None = None
    """The server's scores against the model's own on the same rows, where answers were scored."""

    unit: str = "share"
    """Of the metric."""

    margin: Number
    """How much worse it may be: percentage points for a share, else in the metric's own unit."""

    notes: tuple[str, ...] = ()
    requests: int = 0
    """Questions that were sent to the server."""

    prompt_tokens: int | NotReported = NotReported("the server reports no token counts")
    """Of all questions, by the server's count."""

    completion_tokens: int | NotReported = NotReported("the server reports no token counts")
    """Of all answers, by the server's count."""

    seconds: float = 0.0
    finished: float | None = None

    @property
    def exit_code(self) -> int:
        """0 for the same, 5 for drift, 6 where it is unclear."""
        return EXIT_CODES[self.verdict]

    def difference(self, kind: DifferenceKind) -> Difference | None:
        """Return the difference of a kind, or None."""
        return next((difference for difference in self.differences if difference.kind == kind), None)
