"""What a worker does with large bodies: real ASGI calls into `Service` around a small application."""

import asyncio
import contextlib
import logging

import pytest
from mlflow_service.serving import app as service_app
from mlflow_service.serving import bodies
from mlflow_service.serving.app import Service

MIB = 1024 * 1024
LIMIT = 3 * MIB
DATABASE = "/api/2.0/mlflow/runs/log-batch"
OTHER = "/gateway/x/mlflow/invocations"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/1/model.bin"
CHUNK = b"x" * (MIB // 4)
WAIT_SECONDS = 20.0  # after which a test has failed


class Memory:
    """The bytes of bodies that a worker has in memory, as clients count them."""

    def __init__(self):
        self.held = self.most = 0

    def add(self, size):
        self.held += size
        self.most = max(self.most, self.held)


class Client:
    """One request: says how long its body is, hands it over piece by piece, and reads the answer.

    `sends` is how much it really sends, `then` what comes after: "end", or "disconnect", or "silence".
    `length` is its Content-Length; None sends the body in chunks.
    """

    def __init__(
        self, size, *, sends=None, then="end", path=DATABASE, method="POST", length=-1, headers=(), memory=None
    ):
        self.left = size if sends is None else sends
        self.then = then
        self.ended = False
        self.handed_over = 0
        self.memory = memory or Memory()
        self.status, self.text = None, b""
        self.began, self.stalled, self.reads = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.reads.set()
        length = size if length == -1 else length
        own = [(b"transfer-encoding", b"chunked")] if length is None else [(b"content-length", str(length).encode())]
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "client": ("10.1.2.3", 5),
            "headers": [*own, *headers],
        }

    async def receive(self):
        self.began.set()
        if self.ended or (self.left == 0 and self.then != "end"):
            self.stalled.set()
            if self.then == "disconnect":
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        piece = CHUNK[: self.left]
        self.left -= len(piece)
        self.ended = self.left == 0 and self.then == "end"
        self.handed_over += len(piece)
        self.memory.add(len(piece))
        return {"type": "http.request", "body": piece, "more_body": not self.ended}

    async def send(self, message):
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        self.text += message.get("body", b"")

    async def ask(self, service):
        await service(self.scope, self.receive, self.send)
        self.memory.add(-self.handed_over)
        return self.status


class App:
    """Reads each body to its end, and answers 200 with its length once it is let go on."""

    def __init__(self, holds=False):
        self.lengths = []
        self.may_answer = asyncio.Event()
        self.has_one = asyncio.Event()
        if not holds:
            self.may_answer.set()

    async def __call__(self, scope, receive, send):
        length, message = 0, {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            assert message["type"] == "http.request"
            length += len(message["body"])
        self.lengths.append(length)
        self.has_one.set()
        if length > MIB:
            await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def run(scenario):
    """Run a scenario, an async function without arguments, and return its result."""

    async def in_time():
        return await asyncio.wait_for(scenario(), WAIT_SECONDS)

    return asyncio.run(in_time())


def ask(**request):
    """The client and the application after one request to a server with `LIMIT`."""
    prefix = request.pop("prefix", "")

    async def one():
        app, client = App(), Client(**request)
        await client.ask(Service(app, prefix=prefix, max_body_bytes=LIMIT))
        return client, app

    return run(one)


# The limit


@pytest.mark.parametrize("prefix", ["", "/tracking"])
@pytest.mark.parametrize("path", [DATABASE, OTHER, "/v1/traces", "/api/2.0/mlflow/artifacts/list"])
def test_body_of_the_limit_is_answered_and_a_byte_more_is_not(path, prefix):
    client, app = ask(size=LIMIT, path=prefix + path, prefix=prefix)
    assert (client.status, app.lengths) == (200, [LIMIT])
    client, app = ask(size=LIMIT + 1, path=prefix + path, prefix=prefix)
    assert (client.status, app.lengths) == (413, [])
    assert client.headers[b"content-type"] == b"text/plain"
    assert client.text == b"The request's body has more than 3 MiB, the limit that mlflow_max_body_mb sets.\n"


@pytest.mark.parametrize("path", [DATABASE, OTHER])
def test_body_without_a_length_is_counted(path):
    client, app = ask(size=LIMIT, path=path, length=None)
    assert (client.status, app.lengths) == (200, [LIMIT])
    for size in (LIMIT + 1, LIMIT + MIB):
        client, app = ask(size=size, path=path, length=None)
        assert (client.status, app.lengths, client.left) == (413, [], 0)


def test_small_body_without_a_length_that_ends_in_its_last_piece_is_whole():
    for size in (0, 1, MIB, MIB + 1):
        client, app = ask(size=size, length=None)
        assert (client.status, app.lengths) == (200, [size])


def test_length_beside_chunks_means_nothing():
    client, app = ask(size=LIMIT + 1, length=10, headers=[(b"transfer-encoding", b"chunked")])
    assert (client.status, app.lengths) == (413, [])


@pytest.mark.parametrize("prefix", ["", "/tracking"])
@pytest.mark.parametrize("path", [ARTIFACT, "/ajax-api/2.0/mlflow-artifacts/artifacts/a/b c"])
@pytest.mark.parametrize("length", [-1, None])
def test_artifact_may_have_any_size(path, prefix, length):
    client, app = ask(size=5 * LIMIT, method="PUT", path=prefix + path, prefix=prefix, length=length)
    assert (client.status, app.lengths) == (200, [5 * LIMIT])


@pytest.mark.parametrize("method, path", [("POST", ARTIFACT), ("GET", "/get-artifact"), ("PUT", ARTIFACT + "\nx")])
def test_what_mlflow_does_not_stream_is_no_artifact(method, path):
    client, app = ask(size=LIMIT + 1, method=method, path=path)
    assert (client.status, app.lengths) == (413, [])


@pytest.mark.parametrize("length", ["abc", "-1", "", "1e9", "9" * 5000, "\u00b2"])
def test_length_that_is_no_number_is_no_error(length):
    client, app = ask(size=LIMIT + 1, length=length)
    assert (client.status, app.lengths) == (413, [])
    client, app = ask(size=10, length=length)
    assert (client.status, app.lengths) == (200, [10])


def test_client_that_asks_first_is_answered_before_it_sends():
    client, _ = ask(size=LIMIT + 1, headers=[(b"expect", b"100-Continue")])
    assert (client.status, client.began.is_set()) == (413, False)


def test_client_that_sends_too_much_is_read_to_its_end_and_the_connection_is_closed():
    client, _ = ask(size=2 * LIMIT)
    assert (client.status, client.left) == (413, 0)
    assert client.headers[b"connection"] == b"close"


@pytest.mark.parametrize("length", [100 * LIMIT, None])
def test_client_that_sends_for_ever_is_answered(length):
    client, _ = ask(size=100 * LIMIT, length=length)
    assert client.status == 413
    assert client.handed_over <= (1 + bodies.DISCARD_TIMES) * LIMIT + 2 * len(CHUNK)


@pytest.mark.parametrize("length", [LIMIT + 1, None])
def test_client_that_stops_sending_is_answered(length, monkeypatch):
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.01)
    client, _ = ask(size=2 * LIMIT, sends=LIMIT + 1, then="silence", length=length)
    assert client.status == 413


def test_refused_request_is_logged_without_a_user_that_nobody_has_checked(caplog):
    with caplog.at_level(logging.INFO, "mlflow_service.request"):
        ask(size=LIMIT + 1, headers=[(b"authorization", b"Basic YWRtaW46eA==")])
        ask(size=LIMIT, headers=[(b"authorization", b"Basic YWRtaW46eA==")])
    refused, answered = caplog.records
    assert (refused.method, refused.path, refused.status) == ("POST", DATABASE, 413)
    assert not hasattr(refused, "user")
    assert answered.user == "admin"


@pytest.mark.parametrize("variables, limit", [({"MLFLOW_SERVICE_MAX_BODY_BYTES": "5000"}, 5000), ({}, 32 * MIB)])
def test_limit_comes_from_the_environment(variables, limit, monkeypatch):
    for name, value in {"MLFLOW_SERVICE_DATABASE_REQUESTS": "4", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(service_app, "mlflow_app", lambda: None)
    monkeypatch.setattr(service_app, "open_stores", lambda: None)
    monkeypatch.setattr(service_app.logs, "capture_output", lambda: None)
    monkeypatch.setattr(service_app.without_gc, "in_one_go", contextlib.nullcontext)
    assert service_app.create_app().bodies.limit == limit


# The memory


@pytest.mark.parametrize("path", [DATABASE, OTHER])
@pytest.mark.parametrize("length", [-1, None])
def test_twenty_large_bodies_are_never_in_memory_at_once(path, length):
    async def twenty():
        memory, service = Memory(), Service(App())
        clients = [Client(30 * MIB, memory=memory, path=path, length=length) for _ in range(20)]
        return memory, await asyncio.gather(*(client.ask(service) for client in clients))

    memory, statuses = run(twenty)
    assert statuses == [200] * 20
    before_it_proves_large = 0 if length == -1 else 20 * (MIB + len(CHUNK))
    assert 30 * MIB <= memory.most <= 32 * MIB + before_it_proves_large
    assert memory.held == 0


@pytest.mark.parametrize("length", [-1, None])
def test_small_bodies_pass_while_large_ones_wait(length):
    async def scenario():
        app = App(holds=True)
        service = Service(app)
        large = [Client(30 * MIB) for _ in range(6)]
        tasks = [asyncio.create_task(client.ask(service)) for client in large]
        await app.has_one.wait()
        small = [Client(size, path=path, length=length) for size in (0, 10, MIB) for path in (DATABASE, OTHER)]
        assert [await client.ask(service) for client in small] == [200] * 6
        assert [client.began.is_set() for client in large] == [True] + [False] * 5
        app.may_answer.set()
        assert await asyncio.gather(*tasks) == [200] * 6

    run(scenario)


def test_artifacts_pass_while_large_ones_wait():
    async def scenario():
        app = App(holds=True)
        service = Service(app)
        tasks = [asyncio.create_task(Client(30 * MIB).ask(service)) for _ in range(2)]
        await app.has_one.wait()
        artifact = Client(50 * MIB, method="PUT", path=ARTIFACT)
        tasks.append(asyncio.create_task(artifact.ask(service)))
        await artifact.began.wait()
        app.may_answer.set()
        assert await asyncio.gather(*tasks) == [200] * 3

    run(scenario)


def test_large_bodies_are_taken_in_the_order_in_which_they_came():
    async def scenario():
        app = App(holds=True)
        service = Service(app)
        sizes = [
            20 * MIB,
            30 * MIB,
            2 * MIB,
            25 * MIB,
        ]  # the third would fit beside the first, but is behind the second
        tasks = [asyncio.create_task(Client(size).ask(service)) for size in sizes]
        await app.has_one.wait()
        assert await Client(10).ask(service) == 200
        assert app.lengths == [20 * MIB, 10]
        app.may_answer.set()
        await asyncio.gather(*tasks)
        assert app.lengths == [20 * MIB, 10, *sizes[1:]]

    run(scenario)


def test_large_bodies_that_fit_together_are_taken_together():
    async def scenario():
        app = App(holds=True)
        service = Service(app)
        clients = [Client(10 * MIB) for _ in range(3)]
        tasks = [asyncio.create_task(client.ask(service)) for client in clients]
        await asyncio.gather(*(client.began.wait() for client in clients))
        app.may_answer.set()
        assert await asyncio.gather(*tasks) == [200] * 3

    run(scenario)


@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize("path", [DATABASE, OTHER])
def test_body_that_does_not_come_is_given_up_and_the_next_one_is_taken(path, length, monkeypatch):
    monkeypatch.setattr(bodies, "DELIVERY_SECONDS", 0.05)

    async def scenario():
        app = App()
        service = Service(app)
        slow = Client(30 * MIB, sends=20 * MIB, then="silence", path=path, length=length)
        task = asyncio.create_task(slow.ask(service))
        await slow.stalled.wait()
        assert await Client(30 * MIB).ask(service) == 200
        assert await task == 408
        assert slow.headers[b"connection"] == b"close"
        assert app.lengths == [30 * MIB]

    run(scenario)


@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize("sends", [0, 20 * MIB])
def test_client_that_leaves_gives_its_room_to_the_next(sends, length):
    async def scenario():
        app = App(holds=True)
        service = Service(app)
        first = asyncio.create_task(Client(30 * MIB).ask(service))
        await app.has_one.wait()
        left = [Client(30 * MIB, sends=sends, then="disconnect", length=length) for _ in range(3)]
        tasks = [asyncio.create_task(client.ask(service)) for client in left]
        app.may_answer.set()
        assert await Client(30 * MIB).ask(service) == 200
        assert await first == 200
        assert await asyncio.gather(*tasks) == [400] * 3  # for the log; uvicorn sends nothing any more
        assert app.lengths == [30 * MIB] * 2
        assert service.bodies.budget.free == service.bodies.budget.size

    run(scenario)


def test_client_that_reads_slowly_keeps_room_only_for_a_while(monkeypatch):
    monkeypatch.setattr(bodies, "DELIVERY_SECONDS", 0.05)

    async def scenario():
        service = Service(App())
        slow = Client(30 * MIB)
        slow.reads.clear()
        task = asyncio.create_task(slow.ask(service))
        await slow.began.wait()
        assert await Client(30 * MIB).ask(service) == 200
        assert not task.done()
        slow.reads.set()
        assert await task == 200
        assert service.bodies.budget.free == service.bodies.budget.size

    run(scenario)


def test_application_that_fails_gives_the_room_back():
    async def scenario():
        async def broken(scope, receive, send):
            raise ValueError("broken")

        service = Service(broken)
        with pytest.raises(ValueError, match="broken"):
            await Client(30 * MIB).ask(service)
        assert service.bodies.budget.free == service.bodies.budget.size

    run(scenario)


def test_requests_that_are_cancelled_keep_no_room():
    async def scenario():
        app = App(holds=True)
        service = Service(app)
        answered, waits = Client(30 * MIB), Client(30 * MIB)
        tasks = [asyncio.create_task(client.ask(service)) for client in (answered, waits)]
        await app.has_one.wait()
        for task in reversed(tasks):  # first the one that waits for its room
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not waits.began.is_set()
        receives = Client(30 * MIB, sends=MIB, then="silence")
        task = asyncio.create_task(receives.ask(service))
        await receives.stalled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert service.bodies.budget.free == service.bodies.budget.size

    run(scenario)


def test_budget_is_whole_when_a_turn_comes_to_one_that_is_cancelled():
    async def scenario():
        budget = bodies.Budget(10)
        await budget.take(10)
        first, second = (asyncio.create_task(budget.take(size)) for size in (7, 3))
        while len(budget.waiting) < 2:
            await asyncio.sleep(0)
        budget.give(10)  # both have their turn now, and do not know it yet
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert budget.free == 7

    run(scenario)


def test_who_waits_behind_one_that_is_cancelled_moves_up():
    async def scenario():
        budget = bodies.Budget(10)
        await budget.take(5)
        large, small = (asyncio.create_task(budget.take(size)) for size in (8, 5))
        while len(budget.waiting) < 2:
            await asyncio.sleep(0)
        large.cancel()
        await small
        assert budget.free == 0
        assert not budget.waiting

    run(scenario)
