"""A stateful stand-in for one vendor's service, on a loopback port. Subclass it, and add routes.

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
from llmtune.testing.http import Call, Refusal, Reply, Route, Server, matched, serve


@dataclass(frozen=True)
class Phase:
    """One state that a job passes through: it ends after `looks` polls and `seconds`, whichever is later.

    The last phase of a walk never ends. `training` marks the phase in which steps are made and metrics appear.
    """

    word: str
    """The vendor's own word."""

    looks: int = 1
    seconds: float = 0.0
    training: bool = False


@dataclass
class FakeJob:
    """A tuning job at a fake vendor.

    `body` is the request it was made by, `token` its idempotency key, `created` in seconds of the vendor's clock.
    It stands at phase `at` of its `walk`, `since` then and after `looks` polls. `outcome` names the walk;
    `override` is a word told in place of its state.
    """

    id: str
    body: dict[str, Any]
    key: str | None
    """The run key it carries, wherever this vendor keeps it."""

    token: str | None
    created: float
    walk: tuple[Phase, ...]
    at: int = 0
    looks: int = 0
    since: float = 0.0
    outcome: str = "success"
    override: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """Whatever else the fake keeps of it."""

    @property
    def word(self) -> str:
        """Its state, in the vendor's own word."""
        return self.override or self.walk[self.at].word

    @property
    def ended(self) -> bool:
        """Whether its state is the last one of its walk."""
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

    `model` is what it serves, `key` the run key it carries; times are of the vendor's clock.
    """

    id: str
    model: str
    key: str | None
    created: float
    removed: float | None = None
    data: dict[str, Any] = field(default_factory=dict)


class FakeVendor:
    """Base of the fakes. Everything a route touches is guarded by one lock: routes run one at a time.

    Args:
        lag: seconds until a new job (file, deployment) shows up in a list; fetching it by id works at once.
        api_key: the credential that requests must carry in some header; None takes any.
    """

    name: ClassVar[str] = "vendor"

    walks: ClassVar[Mapping[str, tuple[Phase, ...]]] = {
        "success": (Phase("queued"), Phase("running", looks=3, training=True), Phase("succeeded")),
        "failure": (Phase("queued"), Phase("running", training=True), Phase("failed")),
        "cancelled": (Phase("cancelled"),),
    }
    """States a job passes through, by outcome. success, failure and cancelled are needed."""

    failure_message: ClassVar[str] = "The training data contains a row that could not be processed."
    """What the vendor says of a job that failed; routes put it where the vendor would."""

    keeps_requests: ClassVar[int] = 100_000
    """How many of the last requests are remembered."""

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
        """Every request that did not fit: unknown route, undeclared or wrong field. Tests demand it empty."""

        self.outcome = "success"
        """What becomes of the jobs made from now on: a key of `walks`."""

        self.steps = 10
        """Training steps of the jobs made from now on."""

        self.before_route: Callable[[Call], None] | None = None
        # A clock of its own: a test that makes the client's wall clock jump must not make the vendor's lists lag.
        self._began, self._steady = time.time(), time.monotonic()
        self._shift = 0.0
        self._numbers = itertools.count(1)
        self._brain: dict[str, str] = {}
        self._server: Server | None = None
        self._url = ""
        self._routes = self._collect()

    @classmethod
    def _collect(cls) -> list[tuple[Route, str]]:
        found: dict[str, list[tuple[Route, str]]] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                if routes := getattr(value, "_routes", None):
                    found[name] = [(each, name) for each in reversed(routes)]
        return [entry for entries in found.values() for entry in entries]

    # --- running ---------------------------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        """The base URL, without a trailing slash. Starts the server."""
        if self._server is None:
            self.start()
        return self._url

    def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen at `host` on a port of its own (0: any free one) until `close`."""
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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- time ------------------------------------------------------------------------------------------------------
    def now(self) -> float:
        """The vendor's clock, in Unix seconds."""
        return self._began + (time.monotonic() - self._steady) + self._shift

    def advance(self, seconds: float) -> None:
        """Put the vendor's clock forward by so many `seconds`, for lags and states that last."""
        self._shift += seconds

    # --- jobs ------------------------------------------------------------------------------------------------------
    def new_id(self, prefix: str) -> str:
        """An id that no other thing here has: `prefix` and six digits."""
        return f"{prefix}{next(self._numbers):06d}"

    def new_job(
        self, body: Mapping[str, Any], *, key: str | None = None, token: str | None = None, prefix: str = "job-"
    ) -> FakeJob:
        """Make a job out of a request's `body`. `key` is the run key it carries; ids begin with `prefix`.

        A `token` seen before answers with the first job of that token (idempotency).
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
        """The job of that id, or 404."""
        if id not in self.jobs:
            raise Refusal(404, f"No such job: {id}", code="not_found")
        return self.jobs[id]

    def look(self, job: FakeJob) -> str:
        """A poll of the job: its state moves on when its phase is over. Returns the vendor's word."""
        job.looks += 1
        while not job.ended and self._time_is_over(job):  # it went on while nobody looked
            job.since += job.walk[job.at].seconds
            job.at, job.looks = job.at + 1, 1
        word = job.word
        phase = job.walk[job.at]
        if not job.ended and job.looks >= phase.looks and self.now() - job.since >= phase.seconds:
            job.at, job.looks, job.since = job.at + 1, 0, self.now()
        return word

    def _time_is_over(self, job: FakeJob) -> bool:
        phase = job.walk[job.at]
        return phase.seconds > 0 and job.looks > phase.looks and self.now() - job.since >= phase.seconds

    def training_share(self, job: FakeJob) -> float:
        """How much of its training is done: 0 before, 1 after."""
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
        """Training steps made so far."""
        return int(self.training_share(job) * job.data["steps"])

    def cancel_job(self, job: FakeJob) -> None:
        """Set the job on the way to cancelled, unless it has ended."""
        if not job.ended and job.outcome != "cancelled":
            job.outcome, job.walk, job.at, job.looks, job.since = "cancelled", self.walks["cancelled"], 0, 0, self.now()

    def listed(self, things: Iterable[Any]) -> list[Any]:
        """Those `things` (jobs, files, deployments) that lists show by now; what is younger than `lag` is missing."""
        horizon = self.now() - self.lag
        return [thing for thing in things if thing.created <= horizon]

    def jobs_with(self, key: str) -> list[FakeJob]:
        """Every job that carries this run key. More than one is a double bill."""
        return [job for job in self.jobs.values() if key in (job.key, job.token)]

    # --- files, deployments ----------------------------------------------------------------------------------------
    def new_file(self, content: bytes, *, name: str = "", prefix: str = "file-", **data: Any) -> FakeFile:
        """Keep an uploaded file: its `content`, and `data` of the fake's own. Ids begin with `prefix`."""
        with self.lock:
            file = FakeFile(id=self.new_id(prefix), content=content, created=self.now(), name=name, data=data)
            self.files[file.id] = file
            return file

    def file(self, id: str) -> FakeFile:
        """The file of that id, or 404."""
        if id not in self.files:
            raise Refusal(404, f"No such file: {id}", code="not_found")
        return self.files[id]

    def new_deployment(
        self, model: str, *, key: str | None = None, prefix: str = "dep-", **data: Any
    ) -> FakeDeployment:
        """Make a deployment of `model`; it costs money until `remove_deployment`.

        `key` is the run key it carries; ids begin with `prefix`.
        """
        with self.lock:
            made = FakeDeployment(self.new_id(prefix), model, key, self.now(), data=data)
            self.deployments[made.id] = made
            return made

    def remove_deployment(self, id: str) -> None:
        """Remove a standing deployment, or 404."""
        deployment = self.deployments.get(id)
        if deployment is None or deployment.removed is not None:
            raise Refusal(404, f"No such deployment: {id}", code="not_found")
        deployment.removed = self.now()

    @property
    def standing(self) -> list[FakeDeployment]:
        """Deployments that cost money now."""
        return [each for each in self.deployments.values() if each.removed is None]

    # --- answers ---------------------------------------------------------------------------------------------------
    def teach(self, rows: Iterable[tuple[str, str]]) -> None:
        """What a tuned model knows, from training `rows`: (last user message, answer)."""
        self._brain.update(rows)

    def say(self, prompt: str, *, tuned: bool) -> str:
        """A model's answer. A tuned one gives what it was taught for the most similar prompt; any other is lost."""
        if not tuned or not self._brain:
            return "I am not sure."
        if prompt in self._brain:
            return self._brain[prompt]
        words = set(prompt.lower().split())

        def likeness(known: str) -> float:
            others = set(known.lower().split())
            return len(words & others) / max(1, len(words | others))

        return self._brain[max(self._brain, key=likeness)]

    # --- the wire --------------------------------------------------------------------------------------------------
    def error_body(self, refusal: Refusal) -> Any:
        """An error in this vendor's shape."""
        return {"error": {"message": refusal.message, "code": refusal.code, "param": refusal.field}}

    def authorised(self, call: Call) -> bool:
        """Whether the request carries the right credential."""
        return self.api_key is None or any(self.api_key in value for value in call.headers.values())

    def receive(self, call: Call) -> Fault | None:
        """Note the request down, find its route, and say which fault strikes it."""
        for entry, name in self._routes:
            if entry.method == call.method and (params := matched(entry.regex, call.path)) is not None:
                call.route, call.role, call.params = name, entry.role, params
                break
        with self.lock:
            self.requests.append(call)
            self.counts.update({call.role: 1, call.route: 1} if call.route else {"unrouted": 1})
        if self.before_route is not None:
            self.before_route(call)
        return self.faults.pick(call.role, call.route)

    def answer_call(self, call: Call, fault: Fault | None) -> Reply:
        """Let the route answer. A refusal becomes the vendor's error; a bug in the fake becomes a complaint."""
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
            self.complaints.append(f"{call.method} {call.path}: the fake broke: {type(error).__name__}: {error}")
            reply = Reply({"error": {"message": f"the fake broke: {error!r}"}}, 599)
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
