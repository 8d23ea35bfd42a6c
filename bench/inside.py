"""What a bench does inside a machine: ``python3 inside.py start|seed|memory …``; prints JSON.

Copied into the machine, so standard library only. Requests go to 127.0.0.1 only.
"""

import argparse
import http.client
import json
import subprocess
import time
from pathlib import Path

POLL_SECONDS = 0.02
START_SECONDS = 180  # after which a server counts as not started


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
        time.sleep(POLL_SECONDS)
    return time.perf_counter() - started


def seed(port: int, runs: int) -> dict:
    """Make an experiment with so many runs, as training would; returns the ids of both."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(path: str, body: dict) -> dict:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}: {content[:300].decode('utf-8', 'replace')}")
        return json.loads(content)

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


def memory(unit: str) -> float:
    """MB (10^6 bytes) of PSS of all processes in the unit's control group; see proc_pid_smaps(5), Pss.

    PSS counts a page that n processes share as 1/n in each, so that the sum counts each page once.
    """
    kibibytes = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            groups = (process / "cgroup").read_text().splitlines()
            if any(line.endswith(f"/{unit}") for line in groups):
                pss = next(line for line in (process / "smaps_rollup").open() if line.startswith("Pss:"))
                kibibytes += int(pss.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
    if not kibibytes:
        raise SystemExit(f"{unit} has no process")
    return kibibytes * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="do", required=True)
    command = commands.add_parser("start")
    command.add_argument("port", type=int)
    command.add_argument("command", nargs=argparse.REMAINDER)
    command = commands.add_parser("seed")
    command.add_argument("port", type=int)
    command.add_argument("runs", type=int)
    commands.add_parser("memory").add_argument("unit")
    arguments = parser.parse_args()
    if arguments.do == "start":
        print(json.dumps(start(arguments.port, arguments.command)))
    elif arguments.do == "seed":
        print(json.dumps(seed(arguments.port, arguments.runs)))
    else:
        print(json.dumps(memory(arguments.unit)))


if __name__ == "__main__":
    main()
