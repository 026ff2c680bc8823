"""A stateful fake of one vendor's service, on a loopback port. Subclass it, and add routes.

class Fake(FakeVendor):
    name = "acme"
    walks = {
        "success": (Phase("queued"), Phase("running", looks=3, training=True), Phase("done")),
        "failure": (Phase("running"), Phase("broken")),
        "cancelled": (Phase("stopping"), Phase("stopped")),
    }

    @route("POST", "/v1/jobs", role="submit")
    def create_job(self, call: Call) -> Any:
        body = call.json({"model": Required(str), "training_file": Required(str), "tag": str})
        job = self.new_job(body, key=body.get("tag"))
        return {"id": job.id, "status": job.word}

    @route("GET", "/v1/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        job = self.job(call.params["job"])
        return {"id": job.id, "status": self.look(job)}

with Fake(lag=0.5) as vendor:
    ...                       # talk to vendor.url
    assert not vendor.complaints
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from llmtune.testing.faults import Fault, Faults
from llmtune.testing.http import Call, Refusal, Reply, Route, Server, match_path, serve


@dataclass(frozen=True)
class Phase:
    """One state that a job passes through: it ends after `looks` polls and `seconds`, whichever is later.

    The last phase of a walk never ends. `training` marks the phase in which steps and metrics are made.
    """

    word: str
    """The vendor's name of the state."""

    looks: int = 1
    seconds: float = 0.0
    training: bool = False


@dataclass
class FakeJob:
    """A tuning job at a fake vendor.

    `body` is the request it was made by, `token` its idempotency key, `created` in seconds of the vendor's clock.
    It is in phase `at` of its `walk` since the time `since`, and was polled `looks` times there. `outcome` names the
    walk; `override` is reported in place of its state.
    """

    id: str
    body: dict[str, Any]
    key: str | None
    """The run key that it is labelled with, however this vendor stores it."""

    token: str | None
    created: float
    walk: tuple[Phase, ...]
    at: int = 0
    looks: int = 0
    since: float = 0.0
    outcome: str = "success"
    override: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """Further data of the fake."""

    @property
    def word(self) -> str:
        """Its state, as the vendor names it."""
        return self.override or self.walk[self.at].word

    @property
    def ended(self) -> bool:
        """Whether it is in the last phase of its walk."""
        return self.at == len(self.walk) - 1


@dataclass
class FakeFile:
    """An uploaded file.

    `content` in bytes, `created` in seconds of the vendor's clock.
    """

    id: str
    content: bytes
    created: float
    name: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the content, as a hexadecimal string."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class FakeDeployment:
    """A deployment, which costs money from `created` until `removed`.

    `model` is the model it serves, `key` its run key; times are of the vendor's clock.
    """

    id: str
    model: str
    key: str | None
    created: float
    removed: float | None = None
    data: dict[str, Any] = field(default_factory=dict)


class FakeVendor:
    """Base class of the fakes. Routes run one at a time, under one lock.

    Args:
        lag: seconds until a new job (file, deployment) is listed; fetching it by id works at once.
        api_key: the credential that requests must send in some header; None accepts any request.
    """

    name: ClassVar[str] = "vendor"

    walks: ClassVar[Mapping[str, tuple[Phase, ...]]] = {
        "success": (Phase("queued"), Phase("running", looks=3, training=True), Phase("succeeded")),
        "failure": (Phase("queued"), Phase("running", training=True), Phase("failed")),
        "cancelled": (Phase("cancelled"),),
    }
    """States that a job passes through, by outcome. The keys success, failure and cancelled are required."""

    failure_message: ClassVar[str] = "The training data contains a row that could not be processed."
    """Error message of a failed job, for routes to report as the vendor does."""

    keeps_requests: ClassVar[int] = 100_000
    """How many of the last requests are stored."""

    def __init__(self, *, lag: float = 0.0, api_key: str | None = None) -> None:
        self.lag = lag
        self.api_key = api_key
        self.faults = Faults()
        self.lock = threading.RLock()
        self.jobs: dict[str, FakeJob] = {}
        self.files: dict[str, FakeFile] = {}
        self.deployments: dict[str, FakeDeployment] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.requests: deque[Call] = deque(maxlen=self.keeps_requests)
        self.counts: Counter[str] = Counter()
        """Requests by role and by route name."""

        self.complaints: list[str] = []
        """Every invalid request: unknown route, undeclared or invalid field. Tests check that it is empty."""

        self.outcome = "success"
        """Outcome of the jobs created from now on: a key of `walks`."""

        self.steps = 10
        """Training steps of the jobs created from now on."""

        self.before_route: Callable[[Call], None] | None = None
        # Its own clock: a test that makes the client's wall clock jump must not make the vendor's lists lag.
        self._started_at, self._started_monotonic = time.time(), time.monotonic()
        self._shift = 0.0
        self._numbers = itertools.count(1)
        self._answers: dict[str, str] = {}
        self._server: Server | None = None
        self._url = ""
        self._routes = self._collect()

    @classmethod
    def _collect(cls) -> list[tuple[Route, str]]:
        routes_by_name: dict[str, list[tuple[Route, str]]] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                if routes := getattr(value, "_routes", None):
                    routes_by_name[name] = [(route, name) for route in reversed(routes)]
        return [entry for entries in routes_by_name.values() for entry in entries]

    # --- running ---------------------------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        """Base URL, without a trailing slash. Starts the server."""
        if self._server is None:
            self.start()
        return self._url

    def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen on `host` and `port` (0: any free one) until `close`."""
        with self.lock:
            if self._server is None:
                self._server, self._url = serve(self, host, port)
        return self

    def close(self) -> None:
        """Stop listening."""
        with self.lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def client_settings(self) -> dict[str, str]:
        """Return the settings with which the vendor's provider reaches this fake. Starts the server.

        Override it where the provider needs more than `base_url`.
        """
        return {"base_url": self.url}

    def client_environment(self) -> dict[str, str]:
        """Return the environment variables that the provider or the vendor's SDK reads besides, credentials above all.

        A fake without `api_key` accepts any credential. Override it where one must be there.
        """
        return {}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- time ------------------------------------------------------------------------------------------------------
    def now(self) -> float:
        """Return the time of the vendor's clock, in Unix seconds."""
        return self._started_at + (time.monotonic() - self._started_monotonic) + self._shift

    def advance(self, seconds: float) -> None:
        """Move the vendor's clock forward by `seconds`, past lags and phases."""
        self._shift += seconds

    # --- jobs ------------------------------------------------------------------------------------------------------
    def new_id(self, prefix: str) -> str:
        """Make a unique id: `prefix` and six digits."""
        return f"{prefix}{next(self._numbers):06d}"

    def new_job(
        self, body: Mapping[str, Any], *, key: str | None = None, token: str | None = None, prefix: str = "job-"
    ) -> FakeJob:
        """Create a job from a request's `body`, labelled with the run key `key`; its id begins with `prefix`.

        For a `token` that was used before, return the first job of that token (idempotency).
        """
        with self.lock:
            if token is not None:
                for job in self.jobs.values():
                    if job.token == token:
                        return job
            job = FakeJob(
                id=self.new_id(prefix),
                body=dict(body),
                key=key,
                token=token,
                created=self.now(),
                walk=self.walks[self.outcome],
                since=self.now(),
                outcome=self.outcome,
            )
            job.data["steps"] = self.steps
            self.jobs[job.id] = job
            return job

    def job(self, id: str) -> FakeJob:
        """Return the job of that id. Raises `Refusal` (404)."""
        if id not in self.jobs:
            raise Refusal(404, f"No such job: {id}", code="not_found")
        return self.jobs[id]

    def look(self, job: FakeJob) -> str:
        """Poll the job: return the vendor's name of its state, and move on to the next phase if this one is over."""
        job.looks += 1
        while not job.ended and self._has_expired(job):  # phases that ended between two polls
            job.since += job.walk[job.at].seconds
            job.at, job.looks = job.at + 1, 1
        state = job.word
        phase = job.walk[job.at]
        if not job.ended and job.looks >= phase.looks and self.now() - job.since >= phase.seconds:
            job.at, job.looks, job.since = job.at + 1, 0, self.now()
        return state

    def _has_expired(self, job: FakeJob) -> bool:
        phase = job.walk[job.at]
        return phase.seconds > 0 and job.looks > phase.looks and self.now() - job.since >= phase.seconds

    def training_share(self, job: FakeJob) -> float:
        """Return how much of its training is done: 0 before, 1 after."""
        at = next((at for at, phase in enumerate(job.walk) if phase.training), None)
        if at is None or job.at < at:
            return 0.0
        if job.at > at:
            return 1.0
        phase = job.walk[at]
        looks = job.looks / phase.looks if phase.looks else 1.0
        passed = (self.now() - job.since) / phase.seconds if phase.seconds else 1.0
        return max(0.0, min(looks, passed, 1.0))

    def steps_done(self, job: FakeJob) -> int:
        """Return the training steps made so far."""
        return int(self.training_share(job) * job.data["steps"])

    def cancel_job(self, job: FakeJob, ended: Refusal | None = None) -> None:
        """Move the job to the walk `cancelled`, unless it has ended: then refuse with `ended`, where it is given."""
        if job.ended and ended:
            raise ended
        if not job.ended and job.outcome != "cancelled":
            job.outcome, job.walk, job.at, job.looks, job.since = "cancelled", self.walks["cancelled"], 0, 0, self.now()

    def listed(self, records: Iterable[Any]) -> list[Any]:
        """Return the `records` (jobs, files, deployments) that lists show: those older than `lag` seconds."""
        horizon = self.now() - self.lag
        return [record for record in records if record.created <= horizon]

    def jobs_with(self, key: str) -> list[FakeJob]:
        """Return every job with this run key. More than one means that a run was billed twice."""
        return [job for job in self.jobs.values() if key in (job.key, job.token)]

    # --- files, deployments ----------------------------------------------------------------------------------------
    def new_file(self, content: bytes, *, name: str = "", prefix: str = "file-", **data: Any) -> FakeFile:
        """Store an uploaded file: its `content`, and further `data` of the fake. Its id begins with `prefix`."""
        with self.lock:
            file = FakeFile(id=self.new_id(prefix), content=content, created=self.now(), name=name, data=data)
            self.files[file.id] = file
            return file

    def file(self, id: str) -> FakeFile:
        """Return the file of that id. Raises `Refusal` (404)."""
        if id not in self.files:
            raise Refusal(404, f"No such file: {id}", code="not_found")
        return self.files[id]

    def new_deployment(
        self, model: str, *, key: str | None = None, prefix: str = "dep-", **data: Any
    ) -> FakeDeployment:
        """Create a deployment of `model`; it costs money until `remove_deployment`.

        It is labelled with the run key `key`; its id begins with `prefix`.
        """
        with self.lock:
            deployment = FakeDeployment(self.new_id(prefix), model, key, self.now(), data=data)
            self.deployments[deployment.id] = deployment
            return deployment

    def remove_deployment(self, id: str) -> None:
        """Remove a deployment. Raises `Refusal` (404)."""
        deployment = self.deployments.get(id)
        if deployment is None or deployment.removed is not None:
            raise Refusal(404, f"No such deployment: {id}", code="not_found")
        deployment.removed = self.now()

    @property
    def standing(self) -> list[FakeDeployment]:
        """Deployments that cost money now."""
        return [deployment for deployment in self.deployments.values() if deployment.removed is None]

    # --- answers ---------------------------------------------------------------------------------------------------
    def teach(self, rows: Iterable[tuple[str, str]]) -> None:
        """Let tuned models answer as in training `rows`: (last user message, answer)."""
        self._answers.update(rows)

    def say(self, prompt: str, *, tuned: bool) -> str:
        """Return a model's answer: for a tuned one, that of the most similar prompt it was taught."""
        if not tuned or not self._answers:
            return "I am not sure."
        if prompt in self._answers:
            return self._answers[prompt]
        prompt_tokens = set(prompt.lower().split())

        def similarity(taught: str) -> float:
            taught_tokens = set(taught.lower().split())
            return len(prompt_tokens & taught_tokens) / max(1, len(prompt_tokens | taught_tokens))

        return self._answers[max(self._answers, key=similarity)]

    # --- HTTP ------------------------------------------------------------------------------------------------------
    def error_body(self, refusal: Refusal) -> Any:
        """Return the body of an error in this vendor's format."""
        return {"error": {"message": refusal.message, "code": refusal.code, "param": refusal.field}}

    def authorised(self, call: Call) -> bool:
        """Return whether the request has the right credential."""
        return self.api_key is None or any(self.api_key in value for value in call.headers.values())

    def receive(self, call: Call) -> Fault | None:
        """Record the request, find its route, and return the fault to inject, if any."""
        for entry, name in self._routes:
            if entry.method == call.method and (params := match_path(entry.regex, call.path)) is not None:
                call.route, call.role, call.params = name, entry.role, params
                break
        with self.lock:
            self.requests.append(call)
            self.counts.update({call.role: 1, call.route: 1} if call.route else {"unrouted": 1})
        if self.before_route is not None:
            self.before_route(call)
        return self.faults.pick(call.role, call.route)

    def answer_call(self, call: Call, fault: Fault | None) -> Reply:
        """Call the route. A refusal becomes the vendor's error; a bug in the fake becomes a complaint."""
        try:
            if fault is not None and fault.kind == "answer" and not fault.handled:
                raise Refusal(fault.status, fault.message, code=fault.code, headers=fault.headers)
            if not self.authorised(call):
                raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")
            if not call.route:
                self.complaints.append(f"{call.method} {call.path}: no such route")
                raise Refusal(404, f"Unknown request URL: {call.method} {call.path}", code="unknown_url")
            with self.lock:
                reply = self._run(call, fault)
            if fault is not None and fault.kind == "answer":
                raise Refusal(fault.status, fault.message, code=fault.code, headers=fault.headers)
        except Refusal as refusal:
            reply = Reply(self.error_body(refusal), refusal.status, dict(refusal.headers))
        except Exception as error:  # noqa: BLE001 - a bug in a fake must not look like a vendor that is down
            self.complaints.append(f"{call.method} {call.path}: the fake failed: {type(error).__name__}: {error}")
            reply = Reply({"error": {"message": f"the fake failed: {error!r}"}}, 599)
        for where, what in call.refused:
            self.complaints.append(f"{call.method} {call.path}: {where or 'body'} {what}")
        return reply

    def _run(self, call: Call, fault: Fault | None) -> Reply:
        disguised = list(self.jobs.values()) if fault is not None and fault.kind == "state" else []
        for job in disguised:
            job.override = fault.word if fault else None
        try:
            result = getattr(self, call.route)(call)
        finally:
            for job in disguised:
                job.override = None
        return result if isinstance(result, Reply) else Reply(result)
