"""Ask a judge about the answers of base and tuned model, and compute what its verdicts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmtune.data.example import Example, Message
from llmtune.data.formats.chat import write_messages
from llmtune.data.rendering.token_count import TOKENS_PER_TURN, estimate_tokens
from llmtune.errors import LlmtuneError
from llmtune.evaluation.cache import answer_key
from llmtune.evaluation.inference import Answer, generate_answers
from llmtune.evaluation.judge.labels import LabelledAnswers
from llmtune.evaluation.judge.results import (
    JudgeAgreement,
    JudgeCost,
    JudgedFigure,
    JudgedRow,
    JudgeResult,
    Outcome,
)
from llmtune.evaluation.predictions import ModelAccess
from llmtune.evaluation.sampling import clip, format_prompt, row_ids, subsample
from llmtune.graders.judging import (
    HIGHEST,
    LOWEST,
    JudgePrompt,
    Verdict,
    read_score,
    read_verdict,
    write_comparison,
    write_scoring,
)
from llmtune.job.judge import JudgeModel, JudgePrice, JudgeSpec
from llmtune.metrics.agreement import measure_kappa
from llmtune.metrics.comparison import compare_means
from llmtune.metrics.intervals import RESAMPLES, Interval, interval_of_mean
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import GenerationRequest, Generator, Unavailable

#: Rows that a report shows of each outcome.
_SHOWN_PER_OUTCOME = 3

#: A row's own value of each outcome.
OUTCOME_VALUES: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}

#: The verdict with the two answers in the other order.
_SWAPPED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True)
class JudgeSource:
    """A judge that can be asked: its generator, and what is known of where it is.

    `name` is the model as the job names it, `location` where it is asked, `identity` the name under which its replies
    are stored. `price` is what it bills; None where that is not known.
    """

    generator: Generator | Unavailable
    name: str
    location: str
    identity: str
    leaves_machine: bool
    price: JudgePrice | None


def build_request(prompt: JudgePrompt, judge: JudgeModel) -> GenerationRequest:
    """Return the request that asks a judge, greedily."""
    messages = (Message("system", prompt.system), Message("user", prompt.user))
    return GenerationRequest(messages=messages, temperature=0.0, max_tokens=judge.max_tokens)


def count_prompt_tokens(prompt: JudgePrompt) -> int:
    """Estimate the tokens of a judge's prompt."""
    return estimate_tokens(prompt.system) + estimate_tokens(prompt.user) + 2 * TOKENS_PER_TURN


def price_replies(price: JudgePrice | None, prompt_tokens: int, completion_tokens: int) -> tuple[float, str] | None:
    """Return what so many tokens cost in USD, and the sum written out; None where the price is not known."""
    if price is None:
        return None
    amount = (prompt_tokens * price.input + completion_tokens * price.output) / 1e6
    terms = f"{prompt_tokens:,} tokens x {price.input:g} + {completion_tokens:,} x {price.output:g} per million"
    return amount, f"{terms} = {amount:,.4f} USD"


@dataclass
class JudgeRun:
    """A judge of an evaluation: whom to ask, about what, and how much it may cost."""

    spec: JudgeSpec
    source: JudgeSource
    labelled: Sequence[LabelledAnswers] = ()
    allowance: float | None = None
    """USD that the replies may cost; None allows any amount."""

    @property
    def title(self) -> str:
        """What the progress of the replies is called."""
        return "the judge"

    def judge(
        self,
        rows: Sequence[Example],
        base: Sequence[str | None] | None,
        tuned: Sequence[str | None],
        access: Callable[[str], ModelAccess],
        *,
        resamples: int = RESAMPLES,
    ) -> JudgeResult | NotReported:
        """Ask the judge about the answers to `rows`, and about the labelled ones. An error is the reason for none.

        Args:
            rows: the evaluated rows.
            base: the base model's answer to each, None for one without; None where the base model was not asked.
            tuned: the tuned model's.
            access: returns how a model of this identity is asked.
            resamples: bootstrap samples of the intervals.
        """
        from llmtune.redaction.secrets import scrub

        if isinstance(self.source.generator, Unavailable):
            return NotReported(self.source.generator.reason)
        if self.spec.mode == "pairwise" and base is None:
            return NotReported("pairs of answers are compared, and the base model gave none")
        try:
            asked = _Asked(self, rows, base, tuned)
            asked.ask(self.source.generator, access(self.source.identity))
        except LlmtuneError as error:
            # What base and tuned model answered is worth more than the judge: the evaluation stands without it.
            return NotReported(f"the judge could not be asked: {scrub(error.message)}")
        return asked.build_result(resamples)


@dataclass
class _Pair:
    """One row to be judged: its number among the evaluated rows, its question, and both answers."""

    number: int
    question: list[dict[str, object]]
    base: str | None
    tuned: str
    reference: str | None


@dataclass
class _Reading:
    """What the replies about one row came to: None where one could not be read."""

    category: int | None
    """Pairwise: 0 the first answer (a), 1 the second (b), 2 a tie. Points: from 0."""

    reasons: tuple[str, ...] = ()
    turned: bool = False
    preferred: Verdict | None = None
    """The place whose answer was better in both orders."""

    refused: bool = False


class _Asked:
    """The questions of one judge, and its replies."""

    def __init__(
        self,
        run: JudgeRun,
        rows: Sequence[Example],
        base: Sequence[str | None] | None,
        tuned: Sequence[str | None],
    ) -> None:
        self.run, self.spec, self.rows = run, run.spec, rows
        chosen = subsample(rows, run.spec.max_rows)
        self.chosen = len(chosen)
        self.pairs: list[_Pair] = []
        for number in chosen:
            row, answers = rows[number], (None if base is None else base[number], tuned[number])
            if answers[1] is None or (base is not None and answers[0] is None):
                continue
            reference = row.completion() if run.spec.show_reference else None
            self.pairs.append(_Pair(number, write_messages(row.prompt()), answers[0], answers[1], reference or None))
        self._prompts: list[JudgePrompt] = []
        self._answers: dict[str, Answer] = {}

    # --- asking ------------------------------------------------------------------------------------------------------
    def ask(self, generator: Generator, access: ModelAccess) -> None:
        """Ask all questions. Raises as `generate_answers` does; `LlmtuneError` where they would cost too much."""
        for pair in self.pairs:
            self._prompts += self._pair_prompts(pair)
        for labelled in self.run.labelled:
            self._prompts += self._label_prompts(labelled)
        requests = [build_request(prompt, self.spec) for prompt in self._prompts]
        self._check_allowance(requests, access)
        if not requests:
            return
        with generator as opened:
            answers = generate_answers(
                opened,
                requests,
                model=access.model,
                cache=access.cache,
                patience=access.patience,
                progress=access.progress,
            )
        self._answers = {prompt.id: answer for prompt, answer in zip(self._prompts, answers, strict=True)}

    def _pair_prompts(self, pair: _Pair) -> list[JudgePrompt]:
        spec, question, reference = self.spec, pair.question, pair.reference
        if spec.mode == "score":
            texts = [text for text in (pair.base, pair.tuned) if text is not None]
            return [write_scoring(spec.rubric, question, text, reference) for text in texts]
        if pair.base is None or pair.base == pair.tuned:
            return []
        return self._both_orders(question, (pair.base, pair.tuned), reference)

    def _label_prompts(self, labelled: LabelledAnswers) -> list[JudgePrompt]:
        reference = labelled.reference if self.spec.show_reference else None
        question, answers = labelled.question, labelled.answers
        if self.spec.mode == "score":
            return [write_scoring(self.spec.rubric, question, answers[0], reference)]
        return [] if answers[0] == answers[1] else self._both_orders(question, answers, reference)

    def _both_orders(
        self, question: Sequence[dict[str, object]], answers: Sequence[str], reference: str | None
    ) -> list[JudgePrompt]:
        first, second = answers
        rubric = self.spec.rubric
        return [
            write_comparison(rubric, question, first, second, reference),
            write_comparison(rubric, question, second, first, reference),
        ]

    def _check_allowance(self, requests: Sequence[GenerationRequest], access: ModelAccess) -> None:
        """Refuse what may cost more than is left, counting each reply at its longest; stored ones cost nothing."""
        if self.run.allowance is None:
            return
        unpaid = {
            prompt.id: count_prompt_tokens(prompt)
            for prompt, request in zip(self._prompts, requests, strict=True)
            if access.load(answer_key(access.model or "", "text", request)) is None
        }
        priced = price_replies(self.run.source.price, sum(unpaid.values()), len(unpaid) * self.spec.max_tokens)
        if priced is not None and priced[0] > self.run.allowance + 1e-9:
            raise LlmtuneError(
                f"{len(unpaid):,} replies may cost {priced[0]:,.4f} USD, and the budget leaves"
                f" {max(0.0, self.run.allowance):,.4f}"
            )

    # --- reading -----------------------------------------------------------------------------------------------------
    def _text(self, prompt: JudgePrompt) -> str | None:
        generation = self._answers[prompt.id].generation
        return None if generation is None else generation.text

    def _read_order(self, prompts: Sequence[JudgePrompt]) -> _Reading:
        """Read the verdicts of both orders: one counts if they agree."""
        texts = [self._text(prompt) for prompt in prompts]
        if any(text is None for text in texts):
            return _Reading(None, refused=True)
        replies = [read_verdict(text or "", prompt.id) for prompt, text in zip(prompts, texts, strict=True)]
        if replies[0] is None or replies[1] is None:
            return _Reading(None)
        (there, reason), (back, other_reason) = replies[0], replies[1]
        reasons = tuple(filter(None, (reason, other_reason)))
        if there == _SWAPPED[back]:
            return _Reading({"first": 0, "second": 1, "tie": 2}[there], reasons)
        return _Reading(2, reasons, turned=True, preferred=there if there == back else None)

    def _read_score(self, prompt: JudgePrompt) -> _Reading:
        text = self._text(prompt)
        if text is None:
            return _Reading(None, refused=True)
        reply = read_score(text, prompt.id)
        return _Reading(None) if reply is None else _Reading(reply[0] - LOWEST, tuple(filter(None, (reply[1],))))

    # --- results -----------------------------------------------------------------------------------------------------
    def build_result(self, resamples: int) -> JudgeResult:
        """Return the figures of all replies."""
        source, spec = self.run.source, self.spec
        common = JudgeResult(
            model=source.name,
            location=source.location,
            leaves_machine=source.leaves_machine,
            mode=spec.mode,
            rubric=spec.rubric,
            rows=self.chosen,
            evaluated=len(self.rows),
            unanswered=self.chosen - len(self.pairs),
            cost=self._sum_cost(),
            agreement=self._measure_agreement(resamples),
        )
        figures = self._compare(resamples) if spec.mode == "pairwise" else self._score(resamples)
        return common.model_copy(update=figures)

    def _ids(self, pairs: Sequence[_Pair]) -> tuple[str, ...]:
        ids = row_ids(self.rows)
        return tuple(ids[pair.number] for pair in pairs)

    def _compare(self, resamples: int) -> dict[str, object]:
        readings: list[tuple[_Pair, _Reading]] = []
        for pair in self.pairs:
            prompts = self._pair_prompts(pair)
            readings.append((pair, self._read_order(prompts) if prompts else _Reading(2, ("both answers are one",))))
        read = [(pair, reading) for pair, reading in readings if reading.category is not None]
        names: tuple[Outcome, ...] = ("loss", "win", "tie")
        outcomes: list[Outcome] = [names[reading.category or 0] for _, reading in read]
        values = [OUTCOME_VALUES[outcome] for outcome in outcomes]
        counts = Counter(outcomes)
        shown = [(pair, outcome, reading.reasons) for (pair, reading), outcome in zip(read, outcomes, strict=True)]
        return {
            "refused": sum(reading.refused for _, reading in readings),
            "unreadable": sum(reading.category is None and not reading.refused for _, reading in readings),
            "wins": counts["win"],
            "losses": counts["loss"],
            "ties": counts["tie"],
            "identical": sum(pair.base == pair.tuned for pair, _ in read),
            "turned": sum(reading.turned for _, reading in read),
            "first_preferred": sum(reading.preferred == "first" for _, reading in read),
            "second_preferred": sum(reading.preferred == "second" for _, reading in read),
            "win_rate": _figure(values, resamples) if values else NotReported("no row has a verdict"),
            "row_ids": self._ids([pair for pair, _ in read]),
            "values": tuple(values),
            "shown": self._show(shown),
        }

    def _score(self, resamples: int) -> dict[str, object]:
        read: list[tuple[_Pair, list[_Reading]]] = []
        refused = unreadable = 0
        for pair in self.pairs:
            readings = [self._read_score(prompt) for prompt in self._pair_prompts(pair)]
            if any(reading.category is None for reading in readings):
                refused += any(reading.refused for reading in readings)
                unreadable += not any(reading.refused for reading in readings)
                continue
            read.append((pair, readings))
        scores = [[LOWEST + (reading.category or 0) for reading in readings] for _, readings in read]
        tuned = [float(points[-1]) for points in scores]
        base = [float(points[0]) for points in scores if len(points) == 2]
        paired = bool(base)
        nothing = NotReported("no row has points" if not read else "the base model was not asked")
        shown = [
            (pair, " and ".join(map(str, points)), tuple(reason for reading in readings for reason in reading.reasons))
            for (pair, readings), points in zip(read, scores, strict=True)
        ]
        return {
            "refused": refused,
            "unreadable": unreadable,
            "base_score": _score_figure(base, resamples) if paired else nothing,
            "tuned_score": _score_figure(tuned, resamples) if tuned else nothing,
            "comparison": compare_means(base, tuned, metric="judge_score", resamples=resamples) if paired else None,
            "row_ids": self._ids([pair for pair, _ in read]),
            "values": tuple(tuned),
            "shown": self._show(shown),
        }

    def _show(self, judged: Sequence[tuple[_Pair, str, tuple[str, ...]]]) -> tuple[JudgedRow, ...]:
        shown: list[JudgedRow] = []
        counts: Counter[str] = Counter()
        for pair, outcome, reasons in judged:
            counts[outcome] += 1
            if counts[outcome] <= _SHOWN_PER_OUTCOME:
                shown.append(
                    JudgedRow(
                        row=pair.number + 1,
                        prompt=format_prompt(self.rows[pair.number]),
                        base=None if pair.base is None else clip(pair.base),
                        tuned=clip(pair.tuned),
                        outcome=outcome,
                        reasons=tuple(clip(reason, 300) for reason in reasons),
                    )
                )
        return tuple(sorted(shown, key=lambda row: (row.outcome, row.row)))

    def _measure_agreement(self, resamples: int) -> JudgeAgreement | NotReported:
        if not self.run.labelled:
            return NotReported("no labels of humans were given (evaluation.judge.labels)")
        human: list[int] = []
        judge: list[int] = []
        for labelled in self.run.labelled:
            prompts = self._label_prompts(labelled)
            if self.spec.mode == "score":
                reading = self._read_score(prompts[0])
            else:
                reading = self._read_order(prompts) if prompts else _Reading(2)
            if reading.category is not None:
                human.append(labelled.category)
                judge.append(reading.category)
        total = len(self.run.labelled)
        if not human:
            nothing = NotReported("none of its verdicts on them could be read")
            return JudgeAgreement(rows=0, unreadable=total, agreement=nothing, kappa=nothing)
        ordered = self.spec.mode == "score"
        categories = HIGHEST - LOWEST + 1 if ordered else 3
        kappa = measure_kappa(human, judge, categories, ordered=ordered, resamples=resamples)
        equal = [float(a == b) for a, b in zip(human, judge, strict=True)]
        return JudgeAgreement(
            rows=len(human),
            unreadable=total - len(human),
            agreement=_figure(equal, resamples),
            kappa=NotReported("all verdicts, of humans and judge, are one and the same")
            if kappa is None
            else JudgedFigure(value=kappa[0], interval=kappa[1], rows=len(human)),
        )

    def _sum_cost(self) -> JudgeCost:
        answers = list(self._answers.values())
        generations = [answer.generation for answer in answers if answer.generation is not None]
        counts: list[int | NotReported] = []
        for name in ("prompt_tokens", "completion_tokens"):
            tokens = [getattr(generation, name) for generation in generations]
            counts.append(NotReported("the backend does not count tokens") if None in tokens else sum(tokens))
        prompt_tokens, completion_tokens = counts
        amount: float | NotReported = NotReported("the price of the judge is not known")
        formula = ""
        if isinstance(prompt_tokens, NotReported) or isinstance(completion_tokens, NotReported):
            amount = NotReported("the backend does not count tokens")
        elif (priced := price_replies(self.run.source.price, prompt_tokens, completion_tokens)) is not None:
            amount, formula = priced
        return JudgeCost(
            replies=len(answers),
            stored=sum(answer.cached for answer in answers),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            amount=amount,
            formula=formula,
        )


def _figure(values: Sequence[float], resamples: int) -> JudgedFigure:
    """Return the mean of row values within 0..1, with its interval."""
    interval = interval_of_mean(values, resamples=resamples)
    return JudgedFigure(value=sum(values) / len(values), interval=interval, rows=len(values))


def _score_figure(points: Sequence[float], resamples: int) -> JudgedFigure:
    """Return the mean of points; its interval is that of their place between the lowest and the highest."""
    width = HIGHEST - LOWEST
    inside = interval_of_mean([(value - LOWEST) / width for value in points], resamples=resamples)
    interval = Interval(
        low=LOWEST + width * inside.low, high=LOWEST + width * inside.high, level=inside.level, method=inside.method
    )
    return JudgedFigure(value=sum(points) / len(points), interval=interval, rows=len(points))
