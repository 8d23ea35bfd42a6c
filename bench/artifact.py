"""One artifact through a server on this machine: ``python3 artifact.py up|down|remove PORT UNIT MEBIBYTES``.

Sends or reads it in pieces of 1 MiB with MLflow's artifact API, as its client library does where the
server is the proxy of the artifact store. Prints the seconds it took, and how far the memory of the
unit's processes rose meanwhile, in MB (10^6 bytes). Copied into the machine, so standard library only.
"""

import argparse
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Iterator

from inside import megabytes, processes, rest

PIECE = random.Random(1).randbytes(1 << 20)
NAME = "bench/artifact.bin"
TIMEOUT_SECONDS = 300
SAMPLE_SECONDS = 0.02
WARM_UPS = 12  # small artifacts, on connections of their own: each worker is likely to get one
# Of /proc/<pid>/status: what a process holds for itself, without its program and mapped files
HELD = ("RssAnon:", "RssShmem:")


class Peak:
    """The most memory that a unit's processes hold during a ``with`` block, over what they held before, in MB."""

    def __init__(self, unit: str) -> None:
        self.processes = processes(unit)
        self.before = self.most = self.held()
        self.over = threading.Event()
        self.sampler = threading.Thread(target=self.sample)

    def held(self) -> float:
        return megabytes(self.processes, "status", HELD)

    def sample(self) -> None:
        while not self.over.wait(SAMPLE_SECONDS):
            self.most = max(self.most, self.held())

    def __enter__(self) -> "Peak":
        self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.sampler.join()

    @property
    def growth(self) -> float:
        return self.most - self.before


def request(port: int, method: str, name: str, pieces: int = 0) -> int:
    """Send one request, with so many pieces as its body; returns the number of bytes in the answer."""

    def body() -> Iterator[bytes]:
        for _ in range(pieces):
            yield PIECE

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    headers = {"Content-Length": str(pieces * len(PIECE)), "Content-Type": "application/octet-stream"} if pieces else {}
    path = f"/api/2.0/mlflow-artifacts/artifacts/{name}"
    try:
        connection.request(method, path, body() if pieces else None, headers)
        answer = connection.getresponse()
        if answer.status != 200:
            said = answer.read(300).decode("utf-8", "replace")
            raise SystemExit(f"{method} of {pieces} MiB answered {answer.status}: {said}")
        length = 0
        while piece := answer.read(len(PIECE)):
            if method == "GET" and piece != PIECE:
                raise SystemExit(f"{method} gave other bytes than were sent, in the MiB at {length}")
            length += len(piece)
        return length
    finally:
        connection.close()


def transfer(do: str, port: int, unit: str, mebibytes: int) -> dict:
    """Send or read the artifact on a server that has done the same with small ones."""
    rest(unit)
    method = {"up": "PUT", "down": "GET"}[do]
    for number in range(WARM_UPS):
        request(port, "PUT", f"{NAME}.{number}", 1)
        request(port, "GET", f"{NAME}.{number}")
        request(port, "DELETE", f"{NAME}.{number}")
    os.sync()  # what others have written to the disk is not our load
    with Peak(unit) as peak:
        started = time.perf_counter()
        length = request(port, method, NAME, mebibytes if do == "up" else 0)
        seconds = time.perf_counter() - started
    if do == "down" and length != mebibytes * len(PIECE):
        raise SystemExit(f"The answer had {length} bytes, not {mebibytes} MiB")
    return {"seconds": seconds, "growth": peak.growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["up", "down", "remove"])
    parser.add_argument("port", type=int)
    parser.add_argument("unit")
    parser.add_argument("mebibytes", type=int)
    arguments = parser.parse_args()
    if arguments.do == "remove":
        print(json.dumps(request(arguments.port, "DELETE", NAME)))
    else:
        print(json.dumps(transfer(arguments.do, arguments.port, arguments.unit, arguments.mebibytes)))


if __name__ == "__main__":
    main()
