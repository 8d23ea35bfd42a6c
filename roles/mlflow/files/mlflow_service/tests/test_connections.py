"""How a worker takes connections and takes leave of them: one at a time, none while it is held, and no reset."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mlflow_service.serving import connections
from uvicorn.server import ServerState

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
CLIENTS = 8


class Counted(connections.Connection):
    """A connection that notes when it is made and when its request arrives."""

    noted: list[str]

    def connection_made(self, transport: Any) -> None:
        self.noted.append("made")
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.noted.append("asked")
        super().data_received(data)


async def app(scope: dict, receive: Callable, send: Callable) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's runtime folder."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


class Worker:
    """A worker's loop and its connections, as `made`."""

    def __init__(self, protocol: type[connections.Connection] = Counted) -> None:
        self.loop = connections.Loop()
        self.made: list[connections.Connection] = []
        self.noted: list[str] = []
        self.config = uvicorn.Config(app, lifespan="off", log_level="error")
        self.config.load()
        self.state = ServerState()
        self.protocol = protocol
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
        self.address = self.listening.getsockname()

    def connection(self) -> connections.Connection:
        made = self.protocol(self.config, self.state, {}, _loop=self.loop)
        made.noted = self.noted
        self.made.append(made)
        return made

    async def serve(self) -> asyncio.Server:
        return await self.loop.create_server(self.connection, sock=self.listening)

    def run(self, what: Coroutine) -> Any:
        asyncio.set_event_loop(self.loop)
        try:
            return self.loop.run_until_complete(asyncio.wait_for(what, 30))
        finally:
            self.loop.close()
            self.listening.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2) == b"ok"
    return head.lower()


def test_worker_sees_to_a_connection_before_it_takes_all_that_wait(runtime):
    """So that of clients that come together, another worker gets some."""
    worker = Worker()
    waiting = [socket.create_connection(worker.address) for _ in range(CLIENTS)]
    for client in waiting:
        client.sendall(REQUEST)

    async def serve() -> None:
        await worker.serve()
        while worker.noted.count("asked") < CLIENTS:
            await asyncio.sleep(0)

    worker.run(serve())
    first_request = worker.noted.index("asked")
    assert worker.noted[:first_request].count("made") < CLIENTS / 2
    assert worker.noted.count("made") == CLIENTS
    for client in waiting:
        client.close()


def test_held_worker_answers_on_trial_alone_until_it_is_let_go(runtime):
    """Clients wait meanwhile, and none is refused."""
    (runtime / "hold").touch()
    worker = Worker()

    async def serve() -> None:
        await worker.serve()
        reader, writer = await asyncio.open_connection(*worker.address)
        writer.write(REQUEST)
        trial, asking = await asyncio.open_unix_connection(next(runtime.glob("trial-*.sock")))
        asking.write(REQUEST)
        assert b" 200 " in await answer(trial)
        assert len(worker.made) == 1  # the trial's: nobody has taken the client's
        (runtime / "hold").unlink()
        assert b" 200 " in await answer(reader)
        assert list(runtime.glob("trial-*.sock")) == []
        writer.close()
        asking.close()

    worker.run(serve())


def test_request_that_meets_a_stop_is_answered_and_not_reset(runtime, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 3600)
    worker = Worker()

    async def serve() -> None:
        await worker.serve()
        used, first = await asyncio.open_connection(*worker.address)
        first.write(REQUEST)
        assert b" 200 " in await answer(used)
        fresh, second = await asyncio.open_connection(*worker.address)
        while len(worker.made) < 2:
            await asyncio.sleep(0)
        for connection in worker.made:
            connection.shutdown()
        for reader, writer in ((used, first), (fresh, second)):
            writer.write(REQUEST)
            assert b" 200 " in await answer(reader)
            assert await reader.read() == b""  # closed in order
            writer.close()

    worker.run(serve())


def test_connection_that_stays_idle_after_a_stop_is_closed_in_order(runtime, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0)
    worker = Worker()

    async def serve() -> None:
        await worker.serve()
        reader, writer = await asyncio.open_connection(*worker.address)
        writer.write(REQUEST)
        await answer(reader)
        worker.made[0].shutdown()
        assert await reader.read() == b""
        writer.close()

    worker.run(serve())
