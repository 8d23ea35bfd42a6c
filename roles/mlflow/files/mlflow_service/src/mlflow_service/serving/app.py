"""MLflow's ASGI application, wrapped: a worker serves once it is warm, and logs each request.

MLflow finds `create_app` by the entry point ``mlflow-service`` of the group ``mlflow.app``, its
documented way to run an application of one's own.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from mlflow_service.accounts import local_key, login
from mlflow_service.serving import bodies, database_health, metrics, worker_health
from mlflow_service.system import locks, logs, runtime, without_gc

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger("mlflow_service")
requests = logging.getLogger("mlflow_service.request")

# Each of them imports what a first request would import. Several first requests at once race in
# that import and some are answered with 500, which is why a worker serves only after these.
WARM_UP: list[tuple[str, str, dict | None]] = [
    ("GET", "/health", None),
    ("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1}),
    ("POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "max_results": 1}),
    ("GET", "/api/2.0/mlflow/registered-models/search?max_results=1", None),
]
WARM_UP_RETRY_SECONDS = 1.0
STORES_SECONDS = 60.0  # how long a worker waits for another one that opens the stores

# Answered here, without credentials: whether the database answers. MLflow's own /health never asks it.
READY_PATH = "/health/ready"
METRICS_PATH = "/metrics"  # without the prefix, as MLflow's own exporter has it

UNAUTHORIZED = 401
HTTP_ERROR = 400
LONGEST_NAME = 255  # of a user, as MLflow stores it

# Requests that are short and live on the database. A worker does a few of them at once and lets the
# others wait their turn: forty at once would fight for the interpreter and for SQLite's one writer,
# and take longer, some of them for seconds. Artifacts and calls to other services are not among them.
DATABASE_REQUEST = re.compile(
    r"/((ajax-)?api/\d\.\d/mlflow/(runs|experiments|metrics|registered-models|model-versions|logged-models"
    r"|traces|unified-traces|datasets)/|graphql$|v1/traces$)"
)


def header(scope: Message, name: bytes) -> bytes:
    """A header of a request, or nothing."""
    return next((value for key, value in scope.get("headers", []) if key == name), b"")


def user_of(scope: Message) -> str:
    """The name that a request logged in with, never its password; nothing where there is none."""
    name, _ = local_key.credentials(header(scope, b"authorization")) or ("", "")
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def printable(text: str) -> str:
    """A text that stays on its line in a log, whatever a client has put into it."""
    return text if text.isprintable() else repr(text)[1:-1]


async def respond(
    scope: Message,
    send: Send,
    status: int,
    body: bytes,
    *,
    kind: str = "text/plain",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer a request from here, without MLflow."""
    length = str(len(body)).encode()
    own = [(b"content-type", kind.encode()), (b"content-length", length), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def create_app() -> App:
    """The application that uvicorn serves, one in each worker."""
    logs.capture_output()
    with without_gc.in_one_go():
        app = mlflow_app()
    open_stores()
    return Service(
        app,
        prefix=os.environ.get("MLFLOW_STATIC_PREFIX", ""),
        database_requests=int(os.environ["MLFLOW_SERVICE_DATABASE_REQUESTS"]),
        max_body_bytes=int(os.environ.get("MLFLOW_SERVICE_MAX_BODY_BYTES") or bodies.DEFAULT_LIMIT_BYTES),
        counts=metrics.from_environment(os.environ),
    )


def mlflow_app() -> App:
    """MLflow's own application, with accounts where they are on."""
    if login.are_on():
        return login.create_app()
    from mlflow.server.fastapi_app import app

    return app


def open_stores() -> None:
    """Open the stores, and make the tables of new ones, one worker after the other.

    Where they can't be opened, the start has failed. A worker that replaces another one later goes on and waits in
    its warm-up, so that a database that is away does not end the others.
    """
    from mlflow.server import handlers

    if runtime.was_ready():
        return
    with open(runtime.folder() / "stores.lock", "a", encoding="utf-8") as file:
        locks.take(file, STORES_SECONDS)
        try:
            handlers.initialize_backend_stores()
        except Exception:
            log.exception("the backend store can't be opened")
            runtime.give_up()
            sys.exit(1)


class Service:
    """An ASGI application around MLflow's.

    Args:
        app: the application that answers.
        prefix: MLflow's static prefix, such as ``/mlflow``, or the empty string.
        database_requests: how many requests to the database are answered at once.
        counts: where requests are counted.
        max_body_bytes: that a request's body may have, artifacts excepted.
    """

    def __init__(
        self,
        app: App,
        prefix: str = "",
        database_requests: int = 4,
        counts: metrics.Nothing | None = None,
        max_body_bytes: int = bodies.DEFAULT_LIMIT_BYTES,
    ) -> None:
        self.app = app
        self.prefix = prefix
        self.turns = asyncio.Semaphore(database_requests)
        self.bodies = bodies.Bodies(max_body_bytes, prefix)
        self.readiness = database_health.Readiness()
        self.counts = counts or metrics.Nothing()
        self.pulse = worker_health.Pulse(lambda: self.call("GET", "/health", None))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.start(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == self.prefix + READY_PATH:
            await self.say_whether_ready(scope, send)
        elif scope["type"] == "http" and scope["path"] == METRICS_PATH and isinstance(self.counts, metrics.Counts):
            await self.say_counts(self.counts, scope, send)
        elif scope["type"] == "http":
            await self.answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def start(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the lifespan on, but say that start-up is complete only once the worker is warm."""

        async def send_when_warm(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.warm_up()
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.pulse.warm = True
                runtime.worker_is_ready()

        await self.pulse.start()
        await self.app(scope, receive, send_when_warm)

    async def warm_up(self) -> None:
        """Answer each kind of request once, again and again until none ends in a server error."""
        for method, path, body in WARM_UP:
            while (status := await self.call(method, path, body)) >= 500:
                log.warning("warm-up: %s %s answered %d, trying again", method, path, status)
                await asyncio.sleep(WARM_UP_RETRY_SECONDS)

    async def call(self, method: str, path: str, body: dict | None) -> int:
        """Send one request to the application from within the process; returns the HTTP status."""
        path, _, query = (self.prefix + path).partition("?")
        content = json.dumps(body).encode() if body is not None else b""
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        if key := local_key.header():
            headers.append((b"authorization", key.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
            "state": {},
        }
        status = 500

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("warm-up: %s %s raised", method, path)
            return 500
        return status

    async def answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on and log it: method, path, status, duration, client and user, never query or body."""
        started = time.perf_counter()
        status = 500
        passed_on = True
        self.counts.begin()
        self.pulse.in_progress += 1

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        handle = self.wait_for_turn if DATABASE_REQUEST.match(scope["path"], len(self.prefix)) else self.app
        try:
            await self.bodies.answer(handle, scope, receive, send_and_see)
        except bodies.Refused as refused:
            passed_on = False  # nobody has looked at the password
            text = refused.sentence.encode() + b"\n"
            await respond(scope, send_and_see, refused.status, text, headers=[(b"connection", b"close")])
        finally:
            seconds = time.perf_counter() - started
            self.pulse.in_progress -= 1
            self.pulse.answered += status < HTTP_ERROR
            self.counts.end(scope["method"], scope["path"].removeprefix(self.prefix), status, seconds)
            seen = {
                "method": scope["method"],
                "path": printable(scope["path"]),
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
                "client": (scope.get("client") or ["-"])[0],
            }
            pattern = "%(method)s %(path)s %(status)s %(duration_ms)s ms from %(client)s"
            if passed_on and status != UNAUTHORIZED and (user := user_of(scope)):
                seen["user"] = user
                pattern += " as %(user)s"
            requests.info(pattern, seen, extra=seen)

    async def say_whether_ready(self, scope: Message, send: Send) -> None:
        """Answer 200 when the database answers, and 503 when not. Not logged: fronts ask every other second."""
        if scope["method"] not in {"GET", "HEAD"}:
            status, body = 405, b"method\n"
        elif await self.readiness.ask():
            status, body = 200, b"ready\n"
        else:
            status, body = 503, b"database\n"
        await respond(scope, send, status, body)

    async def say_counts(self, counts: metrics.Counts, scope: Message, send: Send) -> None:
        """Answer with the metrics of all workers. Not logged: Prometheus asks every few seconds."""
        if not counts.lets_in(header(scope, b"authorization")):
            await respond(scope, send, UNAUTHORIZED, b"token\n", headers=[(b"www-authenticate", b"Bearer")])
        else:
            text, kind = await asyncio.to_thread(counts.text)
            await respond(scope, send, 200, text, kind=kind)

    async def wait_for_turn(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request when it is its turn.

        A slow client keeps no turn: its body is taken in before, and the answer goes out after.
        """
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        self.counts.wait(+1)
        try:
            await self.turns.acquire()
        finally:
            self.counts.wait(-1)
        turn = contextlib.ExitStack()
        turn.callback(self.turns.release)

        async def end_turn_and_send(message: Message) -> None:
            turn.close()
            await send(message)

        with turn:
            await self.app(scope, receive_again, end_turn_and_send)
