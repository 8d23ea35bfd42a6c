"""Clients for a server on this machine: ``python3 load.py JSON``, the JSON being the fields of `Load`.

Copied into the server's machine, so standard library only. One process, one thread: precomputed
requests on raw sockets, so that the clients take as little as possible of the cores that they share
with the server. Each client holds one connection open and sends its next request as soon as its
last one is answered. Prints one JSON object; see `Result`.
"""

import json
import math
import selectors
import socket
import ssl
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

ADDRESS = "127.0.0.1"
# Stands for a number that no other request has: log-batch takes each point of a metric once.
UNIQUE = b"1000000000000000"
PATIENCE_SECONDS = 0.5  # how long the loop sleeps at most before it looks for time-outs


@dataclass
class Load:
    """What to send.

    Attributes:
        port: TCP port on 127.0.0.1.
        path: of a POST request.
        bodies: JSON documents; client n sends the n-th, counting round.
        clients: how many at once.
        ramp: seconds before answers count, in which the clients spread out over the server's work.
        seconds: how long answers count then. What is under way at the end is still waited for.
        timeout: seconds after which a request counts as failed.
        tls: over TLS, whose handshake each client makes once; the certificate is not checked.
        authorization: the header of that name; empty for none.
    """

    port: int
    path: str
    bodies: list[str]
    clients: int
    ramp: float
    seconds: float
    timeout: float
    tls: bool = False
    authorization: str = ""


@dataclass
class Result:
    """What came back.

    Attributes:
        per_second: answers of status 200 in the time in which answers count, per second.
        answered: answers of status 200, at any time.
        failures: requests without such an answer, at any time, by reason.
        p50_ms, p99_ms: milliseconds from a request to its whole answer, of all that were answered
            with 200 after the ramp; null where none was.
    """

    per_second: float
    answered: int
    failures: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None


@dataclass
class Client:
    """One connection, and the request under way on it."""

    request: bytes
    connection: socket.socket | None = None
    sent: float = 0.0
    answer: bytearray = field(default_factory=bytearray)


def unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def http_request(path: str, body: str, authorization: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nContent-Type: application/json\r\n"
    if authorization:
        head += f"Authorization: {authorization}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")


def is_complete(answer: bytearray) -> bool:
    """Whether this is a whole HTTP answer, by its length or its last chunk (RFC 9112, 6.3)."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(answer[:end]).lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if found:
        return len(answer) >= end + 4 + int(rest.partition(b"\r\n")[0])
    return answer.endswith(b"0\r\n\r\n")


class Clients:
    """All clients of one load, on one selector."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.selector = selectors.DefaultSelector()
        requests = [http_request(load.path, body, load.authorization) for body in load.bodies]
        self.clients = [Client(requests[number % len(requests)]) for number in range(load.clients)]
        self.unique = time.time_ns() // 1000  # microseconds: 16 digits, like UNIQUE
        self.begin = self.end = 0.0
        self.answered = self.in_time = 0
        self.milliseconds: list[float] = []
        self.failures: Counter[str] = Counter()

    def run(self) -> Result:
        """Send until the time is over, then wait for what is under way."""
        self.begin = time.perf_counter() + self.load.ramp
        self.end = self.begin + self.load.seconds
        for client in self.clients:
            self.send(client)
        while self.selector.get_map():
            for key, _ in self.selector.select(PATIENCE_SECONDS):
                self.receive(key.data)
            now = time.perf_counter()
            for client in [key.data for key in self.selector.get_map().values()]:
                if now - client.sent > self.load.timeout:
                    self.fail(client, f"no answer within {self.load.timeout:g} s")
        self.milliseconds.sort()
        return Result(
            per_second=round(self.in_time / self.load.seconds, 1),
            answered=self.answered,
            failures=dict(self.failures),
            p50_ms=self.percentile(50),
            p99_ms=self.percentile(99),
        )

    def percentile(self, percent: int) -> float | None:
        """By nearest rank."""
        count = len(self.milliseconds)
        return round(self.milliseconds[math.ceil(count * percent / 100) - 1], 2) if count else None

    def send(self, client: Client) -> None:
        """Send the client's next request, unless the time is over. A client that can't send is out."""
        client.sent = time.perf_counter()
        if client.sent >= self.end:
            self.close(client)
            return
        client.answer.clear()
        self.unique += 1
        try:
            if client.connection is None:
                client.connection = socket.create_connection((ADDRESS, self.load.port), timeout=self.load.timeout)
                client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.load.tls:
                    client.connection = unchecked().wrap_socket(client.connection)
                self.selector.register(client.connection, selectors.EVENT_READ, client)
            client.connection.sendall(client.request.replace(UNIQUE, b"%d" % self.unique))
        except OSError as error:
            self.failures[str(error)] += 1
            self.close(client)

    def receive(self, client: Client) -> None:
        try:
            received = client.connection.recv(1 << 18)
            # What TLS has decrypted already, the selector does not tell of.
            while self.load.tls and client.connection.pending():
                received += client.connection.recv(1 << 18)
        except OSError as error:
            self.fail(client, str(error))
            return
        if not received:
            self.fail(client, "connection closed")
            return
        client.answer += received
        if not is_complete(client.answer):
            return
        now = time.perf_counter()
        status = client.answer[9:12].decode()
        if status != "200":
            self.failures[f"status {status}"] += 1
        else:
            self.answered += 1
            if now >= self.begin:
                self.in_time += now <= self.end
                self.milliseconds.append((now - client.sent) * 1000)
        self.send(client)

    def fail(self, client: Client, reason: str) -> None:
        """Count the request as failed. The client connects anew, while there is time."""
        self.failures[reason] += 1
        self.close(client)
        self.send(client)

    def close(self, client: Client) -> None:
        if client.connection is not None:
            if client.connection in self.selector.get_map():
                self.selector.unregister(client.connection)
            client.connection.close()
            client.connection = None


if __name__ == "__main__":
    print(json.dumps(asdict(Clients(Load(**json.loads(sys.argv[1]))).run())))
