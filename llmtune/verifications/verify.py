"""Verify a server: ask it the held-out rows, compare prompts and answers, and name each difference by its kind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from llmtune._retry import RetryPolicy
from llmtune.data.example import Example, Message
from llmtune.data.rendering.text_bank import all_texts, describe_differences
from llmtune.errors import InvalidData, LlmtuneError, MissingCredentials, NotJudged, TransientError, VendorError
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.inference import Answer, Progress, generate_answers
from llmtune.evaluation.replay import Replay
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.comparison import Comparison, compare_means
from llmtune.metrics.points import NotReported
from llmtune.provider.abilities import PromptRenderer
from llmtune.provider.generation import AnswerScorer, Generation, GenerationRequest
from llmtune.redaction.secrets import scrub
from llmtune.verifications import probes
from llmtune.verifications.answers import AnswerPair, TurnMarks, explain_answers, same_answer
from llmtune.verifications.endpoint import EndpointGenerator, Server, ServerAnswer
from llmtune.verifications.prompts import PROBES, SeenPrompt, explain_prompts
from llmtune.verifications.results import PROMPT_KINDS, Difference, PromptEvidence, Verification
from llmtune.verifications.verdict import decide

#: Held-out rows that are asked, where nothing else is said.
ROWS = 60

#: How much worse a server may be: percentage points of a share.
MARGIN = 5.0

#: Retries of a question to a server that is loading its model, or is busy.
PATIENCE = RetryPolicy()

#: Rows whose answers differ that are asked once more, alone.
ASKED_ALONE = 8

#: Answers whose likelihoods are compared, and the mean distance in nats per token from which weights are rounded.
LIKELIHOODS, LIKELIHOOD_GAP = 16, 0.1

#: Rows that are asked before the time is looked at, where it is limited.
TIMED_ROWS = 8

#: How much less likely, in nats per token, another model's answers are to the one that was measured.
FOREIGN = 1.0


@dataclass(frozen=True)
class Reference:
    """The model that was measured: its answers to the rows, and what it can tell of them.

    `source` says where the answers come from, in words. `rows`, `requests` and `answers` belong together, one by one;
    answers are greedy. `renderer` and `scorer` are there where the model itself is at hand. `base_answers` returns the
    base model's answers to some requests, None for one that it has none to.
    """

    source: str
    rows: Sequence[Example]
    requests: Sequence[GenerationRequest]
    answers: Sequence[Generation]
    renderer: PromptRenderer | None = None
    scorer: AnswerScorer | None = None
    base_answers: Callable[[Sequence[GenerationRequest]], Sequence[Generation | None]] | None = None
    spec: EvaluationSpec = field(default_factory=EvaluationSpec)
    labels: Sequence[str] | None = None
    seed: int = 0
    run: str = ""


def verify_endpoint(
    endpoint: Server,
    reference: Reference,
    *,
    margin: float = MARGIN,
    seconds: float = math.inf,
    patience: RetryPolicy = PATIENCE,
    progress: Progress = lambda done, total: None,
) -> Verification:
    """Compare a server with the model that was measured.

    Args:
        endpoint: the server; its model has been chosen (`Endpoint.choose_model`).
        reference: the model's answers.
        margin: how much worse the server may be: percentage points of a share, else the metric's own unit. >= 0.
        seconds: how long rows are asked; those that were not reached by then are left out, and noted. > 0.
        patience: how questions are asked again while the server is loading or busy.
        progress: called with (answers so far, answers in all).

    Raises:
        NotJudged: the server answers no question, or refuses too many.
        MissingCredentials: it does not accept the key, or wants one.
    """
    return _Verifier(endpoint, reference, margin, seconds).verify(patience, progress)


class _Verifier:
    """One verification under way: what was found so far."""

    def __init__(self, endpoint: Server, reference: Reference, margin: float, seconds: float) -> None:
        self.endpoint = endpoint
        self.reference = reference
        self.margin = margin
        self.seconds = seconds
        self.findings = probes.Findings([], [])
        self.evidence: PromptEvidence = "none"
        self.prompts_compared = self.prompts_same = 0
        self.likelihood_gap: float | NotReported = NotReported("the server reports no likelihoods")
        renderer = reference.renderer
        self.marks = _read_marks(renderer) if renderer is not None else TurnMarks()

    def verify(self, patience: RetryPolicy, progress: Progress) -> Verification:
        began = time.monotonic()
        pairs = self._ask_rows(patience, progress)
        self._compare_prompts(pairs)
        pairs = self._ask_again(pairs)
        differing = [pair for pair in pairs if not pair.agrees]
        probes.check_repeats(self.endpoint, [*differing, *_longest(pairs)], self.findings)
        by_form, unexplained = explain_answers(pairs, self.marks)
        self.findings.differences += self._without_consequences(by_form)
        if self._has("answers_swapped") and self.evidence == "counts":  # the counts belong to other questions
            self.evidence, self.prompts_compared, self.prompts_same = "none", 0, 0
            self.findings.differences = [one for one in self.findings.differences if one.kind not in PROMPT_KINDS]
        if not self._has("sampling_on"):
            probes.check_streams(self.endpoint, _longest(pairs), self.findings)
        probes.check_limits(self.endpoint, pairs, self.findings)
        self._explain_rest(pairs, unexplained)
        self._compare_likelihoods(pairs)
        self._note_refusals()
        comparison, unit = self._score(pairs)
        verdict, reason = decide(
            pairs, self.findings.differences, comparison, unit=unit, margin=self.margin, prompts=self.evidence
        )
        usage = self.endpoint.usage
        uncounted = NotReported("the server reports no token counts")
        return Verification(
            endpoint=self.endpoint.address,
            model=self.endpoint.model or "",
            run=self.reference.run,
            source=self.reference.source,
            rows=len(pairs),
            verdict=verdict,
            reason=scrub(reason),
            differences=tuple(
                difference.model_copy(update={"says": scrub(difference.says)})
                for difference in self.findings.differences
            ),
            prompts=self.evidence,
            prompts_compared=self.prompts_compared,
            prompts_same=self.prompts_same,
            answers_same=sum(pair.same for pair in pairs),
            answers_tied=sum(pair.tied for pair in pairs),
            likelihood_gap=self.likelihood_gap,
            comparison=comparison,
            unit=unit,
            margin=self.margin,
            notes=tuple(dict.fromkeys(map(scrub, self.findings.notes))),
            requests=usage.requests,
            prompt_tokens=usage.prompt_tokens if usage.counted else uncounted,
            completion_tokens=usage.completion_tokens if usage.counted else uncounted,
            seconds=time.monotonic() - began,
            finished=time.time(),
        )

    def _without_consequences(self, by_form: Sequence[Difference]) -> list[Difference]:
        """Leave out what only follows from another difference: its cause stands in the result."""
        consequences: set[str] = set()
        # A model that is given something else may begin its turn by itself, or say nothing.
        if any(
            difference.kind in PROMPT_KINDS and (difference.drift or difference.rows)
            for difference in self.findings.differences
        ):
            consequences |= {"role_in_answer", "answers_empty"}
        if any(difference.kind == "stop_not_honoured" for difference in by_form):
            consequences.add("finish_reason_differs")
        return [difference for difference in by_form if difference.kind not in consequences]

    def _has(self, *kinds: str) -> bool:
        return any(difference.kind in kinds for difference in self.findings.differences)

    # --- answers -----------------------------------------------------------------------------------------------------
    def _ask_rows(self, patience: RetryPolicy, progress: Progress) -> list[AnswerPair]:
        generator = EndpointGenerator(self.endpoint)
        try:
            answers = self._ask_in_time(generator, patience, progress)
        except MissingCredentials:
            raise
        except TransientError as error:
            raise NotJudged(f"{self.endpoint.address} does not answer: {scrub(error.message)}") from None
        except VendorError as error:
            raise NotJudged(f"{self.endpoint.address} refuses the questions: {scrub(error.message)}") from None
        return [
            AnswerPair(
                number,
                request,
                expected,
                None if answer.generation is None else generator.find_answer(request),
                refusal=answer.refused or "",
            )
            for number, (request, expected, answer) in enumerate(
                zip(self.reference.requests, self.reference.answers, answers, strict=True), start=1
            )
        ]

    def _ask_in_time(self, generator: EndpointGenerator, patience: RetryPolicy, progress: Progress) -> list[Answer]:
        """Return the answers to the rows; to those that were asked in time, and then the reference has no others."""
        requests = self.reference.requests
        step = len(requests) if math.isinf(self.seconds) else TIMED_ROWS
        deadline = time.monotonic() + self.seconds
        answers: list[Answer] = []
        while len(answers) < len(requests) and (not answers or time.monotonic() < deadline):
            batch = requests[len(answers) : len(answers) + step]
            answers += generate_answers(generator, batch, model=None, cache=None, patience=patience, progress=progress)
        if (asked := len(answers)) < len(requests):
            self.findings.notes.append(
                f"{asked} of {len(requests)} rows were asked: the others were not reached in {self.seconds:g} s"
            )
            self.reference = replace(
                self.reference,
                rows=self.reference.rows[:asked],
                requests=requests[:asked],
                answers=self.reference.answers[:asked],
            )
        return answers

    def _ask_again(self, pairs: Sequence[AnswerPair]) -> list[AnswerPair]:
        """Mark ties, and ask some of the rows whose answers differ once more, with nothing else at the same time."""
        marked = [
            replace(pair, tied=True)
            if pair.got is not None and not pair.same and self._is_tie(pair, pair.got)
            else pair
            for pair in pairs
        ]
        differing = [pair.row for pair in marked if not pair.agrees and pair.got is not None][:ASKED_ALONE]
        checked = []
        for pair in marked:
            if pair.row in differing:
                with suppress(VendorError):
                    pair = replace(pair, alone=self.endpoint.ask(pair.request))
            checked.append(pair)
        return checked

    def _is_tie(self, pair: AnswerPair, answer: ServerAnswer) -> bool:
        return probes.is_tie(self.reference.scorer, pair.request, pair.expected, answer)

    def _explain_rest(self, pairs: Sequence[AnswerPair], unexplained: Sequence[AnswerPair]) -> None:
        """Name the model behind answers that are simply other ones, unless something else explains them."""
        differing = [pair for pair in unexplained if pair.got is not None]
        if not differing or any(
            difference.drift for difference in self.findings.differences if _changes_text(difference)
        ):
            return
        agree = sum(pair.agrees for pair in pairs)
        rows = tuple(pair.row for pair in differing)

        def agrees(pair: AnswerPair, answer: ServerAnswer) -> bool:
            return same_answer(pair.expected, answer) or self._is_tie(pair, answer)

        if probes.check_settings(self.endpoint, differing, agrees, self.findings):
            return
        if base := self._count_base_answers(differing):
            share = f"{base} of {len(differing)} other answers are the base model's"
            says = f"the base model answers, not the tuned one: {share}"
            self.findings.differences.append(Difference(kind="base_model_answers", says=says, rows=rows))
            return
        share = f"answers agree on {agree} of {len(pairs)}"
        if agree * 2 < len(pairs) and self._is_foreign(differing):
            says = f"another model answers: {share}"
            self.findings.differences.append(Difference(kind="another_model_answers", says=says, rows=rows))
            return
        says = f"the weights are rounded (quantised), merged or adapted otherwise: {share}"
        self.findings.differences.append(Difference(kind="weights_differ", says=says, drift=False, rows=rows))

    def _count_base_answers(self, differing: Sequence[AnswerPair]) -> int:
        """Return how many other answers are the base model's; 0 where that does not explain them."""
        if self.reference.base_answers is None or len(differing) < 2:
            return 0
        answers = self.reference.base_answers([pair.request for pair in differing])
        matching = sum(
            base is not None and pair.got is not None and same_answer(base, pair.got)
            for pair, base in zip(differing, answers, strict=True)
        )
        return matching if matching >= max(2, 0.6 * len(differing)) else 0

    def _is_foreign(self, differing: Sequence[AnswerPair]) -> bool:
        """Return whether the model that was measured finds other answers much less likely than its own."""
        scorer = self.reference.scorer
        if scorer is None:
            return True
        losses = []
        for pair in differing[:LIKELIHOODS]:
            assert pair.got is not None
            answer = Generation(text=pair.got.text.strip(), tool_calls=pair.got.tool_calls)
            try:
                served, measured = scorer.score_answers([pair.request] * 2, [answer, pair.expected])
            except InvalidData:
                continue
            losses.append(_mean(measured.logprobs) - _mean(served.logprobs))
        return not losses or sum(losses) / len(losses) > FOREIGN

    # --- prompts -----------------------------------------------------------------------------------------------------
    def _compare_prompts(self, pairs: Sequence[AnswerPair]) -> None:
        renderer = self.reference.renderer
        if renderer is None:
            self._compare_stored_counts(pairs)
            return
        prompts = [prompt for pair in pairs if (prompt := self._see(renderer, pair)) is not None]
        if not any(prompt.shown for prompt in prompts):
            self.findings.notes.append("prompts were not compared: the server shows no tokens and counts none")
            return
        by_tokens = any(prompt.tokens is not None for prompt in prompts)
        self.evidence = "tokens" if by_tokens else "counts"
        self.prompts_compared = sum(prompt.shown for prompt in prompts)
        self.prompts_same = sum(prompt.shown and prompt.same for prompt in prompts)
        prompts += [probe for messages in PROBES if (probe := self._probe(renderer, messages, by_tokens)) is not None]
        differences = explain_prompts(prompts, renderer)
        self.findings.differences += differences
        if by_tokens and not differences:
            self._compare_texts(renderer)

    def _compare_texts(self, renderer: PromptRenderer) -> None:
        """Compare how texts are read in which tokenizers differ, and which the rows need not hold."""
        texts = all_texts()
        other = []
        for kind, text in texts:
            request = GenerationRequest(messages=(Message("user", text),), max_tokens=1)
            try:
                view = self.endpoint.read_prompt(request)
                if view is not None and view.tokens != renderer.render(request.messages).tokens:
                    other.append((kind, text))
            except LlmtuneError:
                continue
        if other:
            kinds = describe_differences(other)
            says = f"{len(other)} of {len(texts)} texts beside the rows are read as other tokens: {kinds}"
            self.findings.differences.append(Difference(kind="tokenizer_differs", says=says, drift=False))

    def _see(self, renderer: PromptRenderer, pair: AnswerPair) -> SeenPrompt | None:
        """Return what the server shows of a row's prompt. Its count at the answer is the truth where both differ."""
        try:
            expected = renderer.render(pair.request.messages, pair.request.tools).tokens
        except LlmtuneError:
            return None
        view = self.endpoint.read_prompt(pair.request)
        count = pair.got.prompt_tokens if pair.got is not None else None
        if view is not None and (count is None or count == len(view.tokens)):
            return SeenPrompt(pair.row, pair.request, expected, tokens=view.tokens, text=view.text)
        return SeenPrompt(pair.row, pair.request, expected, count=count)

    def _probe(self, renderer: PromptRenderer, messages: Sequence, by_tokens: bool) -> SeenPrompt | None:  # type: ignore[type-arg]
        request = GenerationRequest(messages=tuple(messages), max_tokens=1)
        try:
            expected = renderer.render(messages).tokens
            view = self.endpoint.read_prompt(request) if by_tokens else None
            if view is not None:
                return SeenPrompt(0, request, expected, tokens=view.tokens, text=view.text)
            return SeenPrompt(0, request, expected, count=self.endpoint.ask(request).prompt_tokens)
        except LlmtuneError:  # a template, or a server, that takes no system turn
            return None

    def _compare_stored_counts(self, pairs: Sequence[AnswerPair]) -> None:
        """Compare the numbers of tokens that were counted when the model was measured."""
        counts = [
            (pair.row, pair.got.prompt_tokens - pair.expected.prompt_tokens)
            for pair in pairs
            if pair.got is not None and pair.got.prompt_tokens is not None and pair.expected.prompt_tokens is not None
        ]
        if not counts:
            self.findings.notes.append("prompts were not compared: there are no counts of their tokens on both sides")
            return
        self.evidence = "counts"
        self.prompts_compared, self.prompts_same = len(counts), sum(not difference for _, difference in counts)
        wrong = [(row, difference) for row, difference in counts if difference]
        if not wrong:
            return
        differences = {difference for _, difference in wrong}
        low, high = min(differences), max(differences)
        amount = f"{low:+d}" if low == high else f"{low:+d} to {high:+d}"
        if len(differences) == 1 and low > 0 and len(wrong) == len(counts):
            says = f"every prompt has {low} tokens more than when the model was measured: a fixed text stands in it"
        else:
            says = f"prompts have {amount} tokens beside those counted when the model was measured"
        says += f" ({len(wrong)} of {len(counts)} prompts)"
        # Another service may count otherwise: only the answers can say whether the model is given something else.
        difference = Difference(kind="template_differs", says=says, drift=False, rows=tuple(row for row, _ in wrong))
        self.findings.differences.append(difference)

    # --- likelihoods and scores --------------------------------------------------------------------------------------
    def _compare_likelihoods(self, pairs: Sequence[AnswerPair]) -> None:
        scorer = self.reference.scorer
        reported = [pair for pair in pairs if pair.same and pair.got is not None and pair.got.logprobs]
        if scorer is None or not reported:
            return
        gaps: list[float] = []
        for pair in reported[:LIKELIHOODS]:
            assert pair.got is not None
            assert pair.got.logprobs is not None
            served = pair.got.logprobs
            try:
                (measured,) = scorer.score_answers([pair.request], [pair.expected])
            except InvalidData:
                continue
            # Servers report the token that ends the answer, or leave it out.
            if len(measured.logprobs) - len(served) in (0, 1):
                gaps += [abs(a - b) for a, b in zip(served, measured.logprobs, strict=False)]
                if not any(served):
                    self.findings.notes.append("the server reports all likelihoods as 1, which says nothing")
                    return
        if not gaps:
            self.likelihood_gap = NotReported("the server's tokens of answers are not the model's")
            return
        self.likelihood_gap = sum(gaps) / len(gaps)
        explained = any(difference.drift for difference in self.findings.differences if _changes_text(difference))
        if self.likelihood_gap > LIKELIHOOD_GAP and not explained and not self._has("weights_differ"):
            says = (
                "the weights are rounded (quantised), merged or adapted otherwise: the likelihoods of tokens differ by"
                f" {self.likelihood_gap:.2f} nats on average"
            )
            self.findings.differences.append(Difference(kind="weights_differ", says=says, drift=False))

    def _score(self, pairs: Sequence[AnswerPair]) -> tuple[Comparison, str]:
        """Compare the scores of both on the rows, or how often they agree where answers cannot be scored."""
        rows = [replace_answer(row) for row in self.reference.rows]
        served = [
            (pair.request, pair.got.generation if pair.got is not None else Generation(text="", finish_reason="stop"))
            for pair in pairs
        ]
        measured = [(pair.request, pair.expected) for pair in pairs]
        if all(row.answer() is not None for row in rows):
            try:
                result = evaluate(
                    rows,
                    {"run": Replay(measured), "endpoint": Replay(served)},
                    self.reference.spec.model_copy(update={"max_rows": max(1, len(rows))}),
                    scoring=ScoringOptions(labels=self.reference.labels, seed=self.reference.seed),
                )
            except LlmtuneError as error:
                self.findings.notes.append(f"answers were not scored: {error.message}")
            else:
                comparison = result.comparison(a="run", b="endpoint")
                value = (system := result.system("endpoint")) and system.get(result.main)
                if comparison is not None and value:
                    return comparison, value.unit
        agreement = [float(pair.agrees) for pair in pairs]
        full_marks = [1.0] * len(pairs)
        return compare_means(full_marks, agreement, metric="agreement", names=("run", "endpoint")), "share"

    def _note_refusals(self) -> None:
        for name, refusal in self.endpoint.refused.items():
            if name == "temperature":
                self.findings.notes.append(
                    f"the server refuses temperature, so its answers may be sampled: {refusal[:200]}"
                )
            elif name == "logprobs":
                self.findings.notes.append("likelihoods were not compared: the server refuses logprobs")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def replace_answer(row: Example) -> Example:
    """Return a preference row as one with its preferred answer, by which answers are scored; others as they are."""
    if row.preference is None:
        return row
    return row.replace(messages=(*row.messages, *row.preference.preferred), preference=None)


def _changes_text(difference: Difference) -> bool:
    """Return whether a difference may make answers other ones, rather than be of their form or of a single probe."""
    return difference.kind not in (
        "finish_reason_differs",
        "tool_arguments_not_text",
        "stream_differs",
        "stream_broken",
        "max_tokens_ignored",
        "stop_ignored",
        "rows_refused",
    )


def _longest(pairs: Sequence[AnswerPair]) -> list[AnswerPair]:
    """Return the pairs with an answer, the longest first: they show most."""
    answered = [pair for pair in pairs if pair.got is not None]
    return sorted(answered, key=lambda pair: -len(pair.got.text) if pair.got is not None else 0)


def _read_marks(renderer: PromptRenderer) -> TurnMarks:
    """Return how the template begins and ends an answer's turn."""
    ends = tuple(text for token in sorted(renderer.end_tokens) if (text := renderer.decode([token]).strip()))
    request = PROBES[0]
    try:
        with_prompt = renderer.render(request).text
        bare = renderer.render(request, generation_prompt=False).text
    except LlmtuneError:
        return TurnMarks(ends)
    begin = with_prompt.removeprefix(bare).strip()
    role = begin
    for end in (">", "|"):
        role = role.rpartition(end)[2]
    return TurnMarks(ends, tuple(dict.fromkeys(text for text in (begin, role.strip(), "assistant") if text)))
