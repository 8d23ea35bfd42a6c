"""Bodies of requests: none beyond a limit, and few large ones in a worker's memory at once.

MLflow takes a body in as a whole, so many large ones that come together could take all memory of the
machine. Bodies of more than `SMALL_BYTES` therefore take turns by size: room is reserved for one before
it is received, first come, first served, and given back when it is answered. Until then the client's
bytes stay in its own buffers, since uvicorn reads no more than asked. Small bodies wait for nothing.

Artifacts that MLflow streams to the store are never in memory as a whole; they have no limit and no turn.
Standard library only.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MIB = 1024 * 1024
DEFAULT_LIMIT_BYTES = 32 * MIB
LEAST_BUDGET_BYTES = 32 * MIB
SMALL_BYTES = MIB
DELIVERY_SECONDS = 120.0  # MLflow's clients give up after this

# A client that still sends when the answer comes sees a broken connection instead of the status. So what
# it sends is read and thrown away, up to so many times the limit and for so long.
DISCARD_TIMES = 4
DISCARD_SECONDS = 60.0

# What MLflow streams: PUT requests to mlflow/server/artifact_router.py (MLflow 3.17.2), whose paths have no newline.
STREAMED = re.compile(r"/(ajax-)?api/2\.0/mlflow-artifacts/artifacts/.*$")
LONGEST_LENGTH = 20  # digits of a Content-Length, as in h11


class Refused(Exception):
    """A request is not passed on.

    Args:
        status: of the answer.
        sentence: for the client.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Budget:
    """Bytes that several share, first come, first served: who wants much is not passed by those who want less.

    Args:
        size: of the whole, in bytes; nobody may ask for more.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait for so many bytes, and have them until `give`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((size, turn))
        self.let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.let_in()  # those behind it may fit now
            else:
                self.give(size)  # it had its turn, but was cancelled before it knew
            raise

    def give(self, size: int) -> None:
        """Give so many bytes back."""
        self.free += size
        self.let_in()

    def let_in(self) -> None:
        while self.waiting:
            size, turn = self.waiting[0]
            if not turn.cancelled():
                if size > self.free:
                    return
                self.free -= size
                turn.set_result(None)
            self.waiting.popleft()


def declared(scope: Message) -> int | None:
    """How long a request says that its body is, in bytes; None where only its end will tell."""
    length: int | None = 0
    for name, value in scope.get("headers", ()):
        if name == b"transfer-encoding":
            return None  # a length beside it means nothing: RFC 9112, section 6.3
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) <= LONGEST_LENGTH else None
    return length


def waits_for_continue(scope: Message) -> bool:
    """Whether the client sends its body only once it is told to."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])


class Bodies:
    """Lets requests through to what answers them, with the body at hand where it is large.

    Args:
        limit: bytes that a body may have.
        prefix: MLflow's static prefix, such as ``/mlflow``, or the empty string.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT_BYTES, prefix: str = "") -> None:
        self.limit = limit
        self.small = min(limit, SMALL_BYTES)
        self.prefix = prefix
        self.budget = Budget(max(limit, LEAST_BUDGET_BYTES))

    async def answer(self, handle: App, scope: Message, receive: Receive, send: Send) -> None:
        """Have a request answered.

        Raises:
            Refused: it was not passed on, since its body is too large, too slow, or not all there.
        """
        length = declared(scope)
        if (length is not None and length <= self.small) or self.is_streamed(scope):
            await handle(scope, receive, send)
            return
        if length is not None and length > self.limit:
            if not waits_for_continue(scope):
                await self.discard(receive)
            raise self.too_large()

        with contextlib.ExitStack() as reservation:
            messages: deque[Message] = deque()
            # One that does not say its length is small until it proves to be large.
            if length is not None or not await take_in(receive, messages, self.small):
                await self.take_in_large(receive, messages, self.limit if length is None else length, reservation)

            async def receive_again() -> Message:
                return messages.popleft() if messages else await receive()

            async def send_and_let_go(message: Message) -> None:
                # A client that reads its answer slowly must not keep the others waiting for ever.
                if message["type"] == "http.response.start":
                    timer = asyncio.get_running_loop().call_later(DELIVERY_SECONDS, reservation.close)
                    reservation.callback(timer.cancel)
                await send(message)

            await handle(scope, receive_again, send_and_let_go)

    def is_streamed(self, scope: Message) -> bool:
        return scope["method"] == "PUT" and STREAMED.match(scope["path"], len(self.prefix)) is not None

    async def take_in_large(
        self, receive: Receive, messages: deque[Message], size: int, reservation: contextlib.ExitStack
    ) -> None:
        """Reserve room for a body of up to so many bytes, and receive it."""
        await self.budget.take(size)
        reservation.callback(self.budget.give, size)
        try:
            whole = await asyncio.wait_for(take_in(receive, messages, size), DELIVERY_SECONDS)
        except asyncio.TimeoutError as error:  # noqa: UP041 - two exceptions in Python 3.10
            sentence = f"The request's body was not here within {DELIVERY_SECONDS:.0f} seconds."
            raise Refused(408, sentence) from error
        if not whole:
            goes_on = messages[-1].get("more_body")
            messages.clear()
            reservation.close()
            if goes_on:
                await self.discard(receive)
            raise self.too_large()

    async def discard(self, receive: Receive) -> None:
        """Read what a client sends and throw it away, within bounds."""

        async def read() -> None:
            left = DISCARD_TIMES * self.limit
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), DISCARD_SECONDS)

    def too_large(self) -> Refused:
        return Refused(
            413, f"The request's body has more than {self.limit / MIB:.4g} MiB, the limit that mlflow_max_body_mb sets."
        )


async def take_in(receive: Receive, messages: deque[Message], most: int) -> bool:
    """Receive what is missing of a body; False where it has more than so many bytes, which may be before its end."""
    have = sum(len(message.get("body", b"")) for message in messages)
    while have <= most and (not messages or messages[-1].get("more_body")):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The connection ended before the request's body did.")
        messages.append(message)
        have += len(message.get("body", b""))
    return have <= most
