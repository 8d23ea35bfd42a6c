"""Clients that notice every refused or failed request: ``python3 traffic.py PORT THREADS [--name N] [--timeout S]``.

Runs on the machine under test, against its loopback address; with a name, on a machine beside it,
over TLS to the front of that name, trusting the CAs in ``/srv/ca.pem``, with the header
Authorization from ``/srv/authorization``. Each thread sends one request after the other, with a pause
between, each over a new connection, half of them reads and half of them writes, until standard input ends. Then prints
``{"answered", "stored", "failures", "longest_seconds"}`` as JSON; ``stored`` has the ids of the runs that the
server said it has stored.
"""

import argparse
import http.client
import json
import ssl
import sys
import threading
import time
from pathlib import Path

PATIENCE_SECONDS = 300  # how long a change takes is no matter of tests, and they share two cores
PAUSE_SECONDS = 1.0  # between two requests of one client, so that the change has a processor too
LEAST_REQUESTS = 12  # of one client, also where what happens meanwhile is soon over
SEARCH = ("/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"], "max_results": 5})
CREATE = ("/api/2.0/mlflow/runs/create", {"experiment_id": "0", "run_name": "traffic"})


class Client(threading.Thread):
    """One client; its results are read after it has been stopped and joined."""

    def __init__(self, port: int, stop: threading.Event, name: str = "", timeout: float = PATIENCE_SECONDS) -> None:
        super().__init__()
        self.port = port
        self.name = name
        self.timeout = timeout
        self.headers = {"Content-Type": "application/json"}
        if name:
            self.headers["Authorization"] = Path("/srv/authorization").read_text()
        self.stop = stop
        self.answered = 0
        self.stored: list[str] = []
        self.longest_seconds = 0.0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set() or self.answered + len(self.failures) < LEAST_REQUESTS:
            started = time.monotonic()
            try:
                self.request(*(SEARCH if self.answered % 2 else CREATE))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
            self.stop.wait(PAUSE_SECONDS)

    def connection(self) -> http.client.HTTPConnection:
        if not self.name:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        trusted = ssl.create_default_context(cafile="/srv/ca.pem")
        return http.client.HTTPSConnection(self.name, self.port, timeout=self.timeout, context=trusted)

    def request(self, path: str, body: dict) -> None:
        connection = self.connection()
        try:
            connection.request("POST", path, json.dumps(body), self.headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status == 200:
            self.answered += 1
            if path == CREATE[0]:
                self.stored.append(json.loads(said)["run"]["info"]["run_id"])
        else:
            self.failures.append(f"{path} answered {answer.status}: {said[:200]!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("--name", default="", help="of the front; without it, the server on this machine is asked")
    parser.add_argument("--timeout", type=float, default=PATIENCE_SECONDS, help="seconds that a client waits")
    given = parser.parse_args()
    stop = threading.Event()
    clients = [Client(given.port, stop, given.name, given.timeout) for _ in range(given.threads)]
    for client in clients:
        client.start()
    print("started", flush=True)
    sys.stdin.read()
    stop.set()
    for client in clients:
        client.join()
    result = {
        "answered": sum(client.answered for client in clients),
        "stored": [run for client in clients for run in client.stored],
        "failures": [failure for client in clients for failure in client.failures],
        "longest_seconds": round(max(client.longest_seconds for client in clients), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
