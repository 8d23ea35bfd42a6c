"""How a worker takes connections and takes leave of them: uvicorn's `Loop` for ``--loop``, `Connection` for ``--http``.

asyncio takes as many waiting connections at once as the queue may hold, so of clients that come
together, the worker that wakes up first gets nearly all, for as long as they stay connected, and
the other workers idle. And a server that is on trial (see the floor change) takes none at all.

uvicorn, when it stops, closes every connection that has no request in progress at once, and a
request that is on its way then meets a reset. Most of all that hits new connections, whose first
request the worker has accepted but not read yet.
"""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from mlflow_service.system import runtime

LINGER_SECONDS = 1.0


class Listener(socket.socket):
    """A socket that listens already, and keeps the queue that systemd has given it."""

    def listen(self, backlog: int = 0) -> None:
        """Leave the queue as it is."""


class Loop(asyncio.SelectorEventLoop):
    """A worker takes one waiting connection, then sees to those that it has, then takes the next."""

    async def create_server(self, protocol_factory: Any, *, sock: socket.socket, **options: Any) -> asyncio.Server:
        """Serve on the socket. To asyncio, `backlog` is the queue and how many connections to take at once."""
        options |= {"sock": Listener(fileno=sock.dup().detach()), "backlog": 1}
        held = runtime.is_held()
        server = await super().create_server(protocol_factory, **options, start_serving=not held)
        if held:
            trial = await self.create_unix_server(protocol_factory, runtime.trial_socket())
            self.letting_in = self.create_task(self.let_clients_in(server, trial))
        return server

    async def let_clients_in(self, server: asyncio.Server, trial: asyncio.Server) -> None:
        """Go over from the private socket to the one that clients know, once nobody holds them back any more."""
        while runtime.is_held():
            await asyncio.sleep(runtime.POLL_SECONDS)
        trial.close()
        runtime.trial_socket().unlink(missing_ok=True)
        await server.start_serving()


class Connection(H11Protocol):
    """A connection that a stop leaves open for one more request, for a moment."""

    lingers = False

    def shutdown(self) -> None:
        """Called when the worker stops: close after the answer in progress, or else after the next one."""
        if self.cycle is None or self.cycle.response_complete:
            self.lingers = True
            self.loop.call_later(LINGER_SECONDS, self.close_if_idle)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.lingers and self.cycle is not None:
            self.cycle.keep_alive = False

    def close_if_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()
