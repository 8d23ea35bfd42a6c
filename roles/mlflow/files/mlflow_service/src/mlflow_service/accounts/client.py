"""The client by which the programs of one machine ask its server: no proxy, no redirection, a limit and a deadline.

Where accounts are on, it goes in with the machine's own key, which root and the service's user can read. Standard
library only, so that what asks starts at once.
"""

import contextlib
import http.client
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_service.accounts import local_key
from mlflow_service.system import acting, files

ANSWER_LIMIT = 32 * 1024 * 1024  # bytes


class ServerError(Exception):
    """No answer, or another than was asked for; the text is one sentence for a person, `status` the answer's or 0."""

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class Server:
    """A running MLflow server.

    Attributes:
        url: the address with the static prefix, such as ``http://127.0.0.1:5001/mlflow``.
        timeout: seconds that one request may take.
        socket: path of a Unix socket to reach it by instead of the network; empty for the network.
        authorization: header of that name; empty for none.
        local_key: whether to send the machine's own key, where there is one; for a server on this machine only.
    """

    url: str
    timeout: float = 30.0
    socket: str = ""
    authorization: str = ""
    local_key: bool = False

    def request(self, method: str, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        """The body of the answer; raises ServerError when there is none or its status is not 2xx."""
        used = self.header()
        try:
            return self.request_with(used, method, path, data, kind)
        except ServerError as error:
            # The request itself may have started the server, which then has a new key.
            if error.status != 401 or self.header() in ("", used):
                raise
        return self.request_with(self.header(), method, path, data, kind)

    def header(self) -> str:
        return (local_key.header() if self.local_key else "") or self.authorization

    def request_with(self, authorization: str, method: str, path: str, data: bytes | None, kind: str) -> bytes:
        headers = {"Content-Type": kind, **({"Authorization": authorization} if authorization else {})}
        try:
            with contextlib.closing(self.connection()) as connection, deadline(connection, self.timeout):
                connection.request(method, urllib.parse.urlsplit(self.url).path + path, data, headers)
                answer = connection.getresponse()
                content = answer.read(ANSWER_LIMIT + 1)
        except (OSError, http.client.HTTPException, files.Refusal) as error:
            raise ServerError(f"{method} {self.url}{path} got no answer: {error}") from error
        if len(content) > ANSWER_LIMIT:
            raise ServerError(f"{method} {path} answered more than {ANSWER_LIMIT} bytes", answer.status)
        if not 200 <= answer.status < 300:  # a redirection is not followed: nobody else is asked
            said = acting.one_line(content[:300].decode("utf-8", "replace"))
            raise ServerError(f"{method} {path} answered {answer.status}: {said}", answer.status)
        return content

    def connection(self) -> http.client.HTTPConnection:
        """A connection to the server itself: no proxy, and no link in place of its socket."""
        where = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        connection = kind(where.hostname or "", where.port, timeout=self.timeout)
        if self.socket:
            connection.sock = files.connect(self.socket, self.timeout)
        else:
            connection.connect()
        return connection


@contextlib.contextmanager
def deadline(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Raise TimeoutError after so many seconds of the block, also where each byte of an answer comes in time."""
    opened = connection.sock  # http.client forgets it once the answer's end will be that of the connection
    over = threading.Event()

    def cut() -> None:
        over.set()
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if over.is_set():
        raise TimeoutError("timed out")
