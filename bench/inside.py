"""What a bench does inside a machine: ``python3 inside.py start|rest|seed|is-count|version|memory|haproxy``; JSON.

Copied into the machine, so standard library only. Requests go to 127.0.0.1 only.
"""

import argparse
import base64
import http.client
import json
import os
import socket
import subprocess
import time
from pathlib import Path

POLL_SECONDS = 0.02
START_SECONDS = 180  # after which a server counts as not started
REST_SECONDS = 180  # after which a server counts as never at rest
REST_SHARE = 0.2  # of a core: what it takes at most when at rest, such as the job runner's look at its queues


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start(port: int, command: list[str]) -> float:
    """Seconds from the start of the command until it has returned and ``/health`` answers 200."""
    started = time.perf_counter()
    subprocess.run(command, check=True)
    while not healthy(port):
        if time.perf_counter() - started > START_SECONDS:
            raise SystemExit(f"/health on port {port} did not answer within {START_SECONDS} s of: {' '.join(command)}")
        time.sleep(POLL_SECONDS)  # until it is asked again, no longer than START_SECONDS
    return time.perf_counter() - started


class Api:
    """MLflow's REST API on 127.0.0.1, over one connection.

    Args:
        authorization: the header of that name; empty for none.
    """

    def __init__(self, port: int, authorization: str = "") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"Content-Type": "application/json"}
        if authorization:
            self.headers["Authorization"] = authorization

    def post(self, path: str, body: dict) -> dict:
        self.connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}: {content[:300].decode('utf-8', 'replace')}")
        return json.loads(content)


def seed(port: int, runs: int, authorization: str) -> dict:
    """Make an experiment with so many runs, as training would; returns the ids of both."""
    post = Api(port, authorization).post
    experiment = post("experiments/create", {"name": f"bench-{time.time_ns()}"})["experiment_id"]
    ids = []
    for number in range(runs):
        now = time.time_ns() // 1_000_000
        run = {"experiment_id": experiment, "run_name": f"run-{number}", "start_time": now}
        ids.append(post("runs/create", run)["run"]["info"]["run_id"])
        batch = {
            "run_id": ids[-1],
            "metrics": [{"key": f"metric-{n}", "value": number / 7, "timestamp": now, "step": 0} for n in range(5)],
            "params": [{"key": f"param-{n}", "value": str(number * n)} for n in range(5)],
            "tags": [{"key": "stage", "value": "bench"}],
        }
        post("runs/log-batch", batch)
    return {"experiment": experiment, "runs": ids}


def is_count(port: int, experiment: str, runs: int) -> bool:
    """Whether the server finds exactly so many runs in the experiment, by asking for its last page.

    A page token of MLflow is an offset (SearchUtils.create_page_token in mlflow/utils/search_utils.py),
    so that the last page costs one request, however many runs there are.
    """

    def page(offset: int) -> dict:
        token = base64.b64encode(json.dumps({"offset": offset}).encode()).decode()
        body = {"experiment_ids": [experiment], "max_results": 2, "page_token": token}
        return Api(port).post("runs/search", body)

    last = page(runs - 1)
    return len(last.get("runs", [])) == 1 and "next_page_token" not in last


def version(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    connection.request("GET", "/version")
    return connection.getresponse().read().decode()


def processes(unit: str) -> list[Path]:
    """The folders in /proc of all processes in the unit's control group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            groups = (process / "cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        if any(line.endswith(f"/{unit}") for line in groups):
            found.append(process)
    if not found:
        raise SystemExit(f"{unit} has no process")
    return found


def megabytes(unit_processes: list[Path], file: str, fields: tuple[str, ...]) -> float:
    """MB (10^6 bytes): the sum of these fields, of this file of /proc, over the processes."""
    kibibytes = 0
    for process in unit_processes:
        try:
            for line in (process / file).read_text().splitlines():
                if line.startswith(fields):
                    kibibytes += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return kibibytes * 1024 / 1e6


def processor_seconds(unit: str) -> float:
    """What the unit's processes have taken of all cores so far; see proc_pid_stat(5), utime and stime."""
    ticks = 0
    for process in processes(unit):
        try:
            after_name = (process / "stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rest(unit: str) -> float:
    """Wait until the unit's processes have had nothing to do for three seconds; returns the seconds waited.

    Stock is healthy as soon as its first worker is, while others and the job runner are still starting.
    """
    started = time.perf_counter()
    quiet = 0
    while quiet < 3:
        if time.perf_counter() - started > REST_SECONDS:
            raise SystemExit(f"{unit} was not at rest within {REST_SECONDS} s")
        before = processor_seconds(unit)
        time.sleep(1)  # the second over which its processor time is counted
        quiet = quiet + 1 if processor_seconds(unit) - before < REST_SHARE else 0
    return time.perf_counter() - started


def memory(unit: str) -> float:
    """MB of PSS of all processes in the unit's control group; see proc_pid_smaps(5), Pss.

    PSS counts a page that n processes share as 1/n in each, so that the sum counts each page once.
    """
    return megabytes(processes(unit), "smaps_rollup", ("Pss:",))


def haproxy(command: str) -> str:
    """What the HAProxy on this machine answers to a command for its administrator; see its management guide, 9.3."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/run/haproxy/admin.sock")
        connection.sendall(f"{command}\n".encode())
        return connection.makefile().read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="do", required=True)
    command = commands.add_parser("start")
    command.add_argument("port", type=int)
    command.add_argument("command", nargs=argparse.REMAINDER)
    commands.add_parser("rest").add_argument("unit")
    command = commands.add_parser("seed")
    command.add_argument("port", type=int)
    command.add_argument("runs", type=int)
    command.add_argument("authorization")
    command = commands.add_parser("is-count")
    command.add_argument("port", type=int)
    command.add_argument("experiment")
    command.add_argument("runs", type=int)
    commands.add_parser("version").add_argument("port", type=int)
    commands.add_parser("memory").add_argument("unit")
    commands.add_parser("haproxy").add_argument("command")
    arguments = parser.parse_args()
    if arguments.do == "start":
        print(json.dumps(start(arguments.port, arguments.command)))
    elif arguments.do == "rest":
        print(json.dumps(rest(arguments.unit)))
    elif arguments.do == "seed":
        print(json.dumps(seed(arguments.port, arguments.runs, arguments.authorization)))
    elif arguments.do == "is-count":
        print(json.dumps(is_count(arguments.port, arguments.experiment, arguments.runs)))
    elif arguments.do == "version":
        print(json.dumps(version(arguments.port)))
    elif arguments.do == "memory":
        print(json.dumps(memory(arguments.unit)))
    else:
        print(json.dumps(haproxy(arguments.command)))


if __name__ == "__main__":
    main()
