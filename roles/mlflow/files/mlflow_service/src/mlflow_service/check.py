"""Ask a running server whether it really works: ``python -m mlflow_service.check URL``.

``/health`` answers 200 even when the database is gone, so this goes further: the version, a query
to the database, and an artifact written, read back and deleted. Prints one JSON object and exits
with 0 when every step passed, with 1 when one failed. Where accounts are on, it goes in with the
machine's own key, which root and the service's user can read. Standard library only, so it starts at once.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable, Collection
from importlib import metadata

from mlflow_service.accounts.client import Server, ServerError
from mlflow_service.system import acting


def check_health(server: Server, version: str) -> None:
    server.request("GET", "/health")


def check_version(server: Server, version: str) -> None:
    running = server.request("GET", "/version").decode("utf-8", "replace")
    if running != version:
        raise ServerError(f"the server runs MLflow {acting.one_line(running[:100])}, the release is {version}")


def check_database(server: Server, version: str) -> None:
    answer = json.loads(server.request("POST", "/api/2.0/mlflow/experiments/search", b'{"max_results": 1}'))
    if "experiments" not in answer:
        raise ServerError("the database holds no experiment, not even the default one")


def check_artifacts(server: Server, version: str) -> None:
    path = f"/api/2.0/mlflow-artifacts/artifacts/.mlflow-check/{secrets.token_hex(8)}"
    content = secrets.token_bytes(64)
    server.request("PUT", path, content, "application/octet-stream")
    try:
        if server.request("GET", path) != content:
            raise ServerError("an artifact was read back with another content than was written")
    finally:
        server.request("DELETE", path)


STEPS: dict[str, Callable[[Server, str], None]] = {
    "health": check_health,
    "version": check_version,
    "database": check_database,
    "artifacts": check_artifacts,
}


def check(server: Server, version: str, skip: Collection[str] = ()) -> dict:
    """Run every step but those to skip.

    Returns:
        ``{"url", "version", "ok", "steps": {name: {"ok", "milliseconds", "error"}}}``.
    """
    steps = {}
    for name, step in STEPS.items():
        if name in skip:
            continue
        started = time.perf_counter()
        error = None
        try:
            step(server, version)
        except ServerError as failure:
            error = str(failure)
        except (ValueError, TypeError, RecursionError):
            error = "the server answers what MLflow does not"
        steps[name] = {
            "ok": error is None,
            "milliseconds": round((time.perf_counter() - started) * 1000, 1),
            "error": error,
        }
    ok = all(step["ok"] for step in steps.values())
    return {"url": server.url, "version": version, "ok": ok, "steps": steps}


def main() -> int:
    parser = argparse.ArgumentParser(prog="mlflow-check", description="Check a running MLflow server.")
    parser.add_argument("url", help="the server's address, static prefix included")
    parser.add_argument("--version", default=metadata.version("mlflow"), help="that should answer (this release's)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for one request (30)")
    parser.add_argument("--skip", action="append", default=[], choices=STEPS, help="leave out a step")
    arguments = parser.parse_args()
    server = Server(arguments.url.rstrip("/"), arguments.timeout, local_key=True)
    result = check(server, arguments.version, arguments.skip)
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
