"""Clients that try again until they are answered: ``python3 clients.py PORT CLIENTS``.

Each is one of `traffic.py`: one request after the other to 127.0.0.1, each over a new connection,
reads and writes in turns. One that is refused, broken or answered with another status than 200 has
failed, and is sent again after a pause. Says "started" when every client has been answered and some
time has passed; goes on until standard input ends, and a little longer. Then prints a `Result` as
JSON, of what came after "started". Copied into the machine together with `traffic.py`, so standard library only.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass

from traffic import CREATE, SEARCH, Client

PAUSE_SECONDS = 0.1
GIVE_UP_SECONDS = 300
STEADY_SECONDS = 3  # of load before the change, which do not count, and after it


@dataclass
class Result:
    """What the clients saw, all together.

    Attributes:
        answered: requests with status 200, before "started" too.
        failed: requests without.
        failures: how often each reason, the most frequent ones.
        longest_seconds: the longest time from when a client first sent a request until that request,
            or its repetition, was answered.
        gave_up: clients that got no answer for GIVE_UP_SECONDS.
    """

    answered: int
    failed: int
    failures: dict[str, int]
    longest_seconds: float
    gave_up: int


class PatientClient(Client):
    """A client that sends a request until it is answered."""

    gave_up = False

    def run(self) -> None:
        while not self.stop.is_set() and not self.gave_up:
            began = time.monotonic()
            while not (answered := self.ask()) and time.monotonic() - began < GIVE_UP_SECONDS:
                time.sleep(PAUSE_SECONDS)  # before it is sent again
            self.gave_up = not answered
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def forget(self) -> None:
        """What was seen so far does not count: a server's first requests may fail for other reasons."""
        self.failures, self.longest_seconds = [], 0.0

    def ask(self) -> bool:
        """Send the next request once; whether it was answered."""
        before = self.answered
        try:
            self.request(*(SEARCH if before % 2 else CREATE))
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        return self.answered > before


def main() -> None:
    port, number = int(sys.argv[1]), int(sys.argv[2])
    stop = threading.Event()
    clients = [PatientClient(port, stop) for _ in range(number)]
    for client in clients:
        client.start()
    while not all(client.answered or client.gave_up for client in clients):
        time.sleep(PAUSE_SECONDS)  # until they are looked at again
    time.sleep(STEADY_SECONDS)  # under the load, before what happens is counted
    for client in clients:
        client.forget()
    print("started", flush=True)
    sys.stdin.read()
    time.sleep(STEADY_SECONDS)  # under the load, after it has happened
    stop.set()
    for client in clients:
        client.join()
    failures = [failure for client in clients for failure in client.failures]
    result = Result(
        answered=sum(client.answered for client in clients),
        failed=len(failures),
        failures=dict(Counter(failures).most_common(5)),
        longest_seconds=max(client.longest_seconds for client in clients),
        gave_up=sum(client.gave_up for client in clients),
    )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
