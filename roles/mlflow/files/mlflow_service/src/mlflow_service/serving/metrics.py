"""What a worker counts, for Prometheus: ``GET /metrics``, where ``MLFLOW_SERVICE_METRICS`` is ``true``.

Each worker counts in files of its own in ``PROMETHEUS_MULTIPROC_DIR``, and whichever is asked adds up
the files of all: prometheus_client's multiprocess mode. The folder is in the service's runtime folder,
which systemd empties at each start.
"""

import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_service.system import runtime

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Paths hold ids and names, which must not become labels: a path belongs to the first group that fits.
GROUPS = [
    (re.compile(r"/(ajax-)?api/\d\.\d/mlflow-artifacts/|/(model-versions/)?get-artifact$"), "artifacts"),
    (re.compile(r"/ajax-api/\d\.\d/mlflow/(upload-artifact|(get-)?\w+-artifacts?)$"), "artifacts"),
    (
        re.compile(
            r"/(?:ajax-)?api/\d\.\d/mlflow/(runs|experiments|metrics|registered-models|model-versions|logged-models"
            r"|traces|unified-traces|datasets|artifacts|users|permissions|webhooks|prompts|scorers|gateway)\b"
        ),
        "",
    ),
    (re.compile(r"/(ajax-)?api/"), "other api"),
    (re.compile(r"/v1/traces$"), "otlp"),
    (re.compile(r"/graphql$"), "graphql"),
    (re.compile(r"/gateway/"), "gateway"),
    (re.compile(r"/(health|version|server-info)$"), "health"),
    (re.compile(r"/static-files/|/favicon|/$|$"), "ui"),
]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BEARER = b"bearer "


def folder() -> Path:
    """Where the workers' files are."""
    return runtime.folder() / "metrics"


def make_folder(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that turn counting on, and their folder made; nothing where it is not wanted."""
    if environment.get("MLFLOW_SERVICE_METRICS") != "true":
        return {}
    folder().mkdir(exist_ok=True)
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder())}


def group(path: str) -> str:
    """The group of a path without its prefix; one of a few, whatever clients ask for."""
    for pattern, name in GROUPS:
        if found := pattern.match(path):
            return name or found[1]
    return "other"


class Nothing:
    """Counts nothing, where no metrics are wanted."""

    def begin(self) -> None:
        """A request has come."""

    def end(self, method: str, path: str, status: int, seconds: float) -> None:
        """A request was answered."""

    def wait(self, change: int) -> None:
        """So many requests more wait for their turn."""


class Counts(Nothing):
    """Counts what this worker does, beside the other workers.

    Args:
        version: of MLflow.
        token_file: path of the file with the token that ``/metrics`` wants; empty where it wants none.
    """

    def __init__(self, version: str, token_file: str = "") -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self.token_file = token_file
        self.requests = Counter("mlflow_requests", "Requests that were answered.", ["method", "route", "status"])
        self.seconds = Histogram(
            "mlflow_request_duration_seconds", "Time to the end of the answer.", ["method", "route"], buckets=SECONDS
        )
        self.in_progress = Gauge(
            "mlflow_requests_in_progress", "Requests that have no whole answer yet.", multiprocess_mode="livesum"
        )
        self.waiting = Gauge(
            "mlflow_requests_waiting", "Requests to the database that wait for their turn.", multiprocess_mode="livesum"
        )
        self.connections = Gauge(
            "mlflow_database_connections_in_use",
            "Connections of the pools that a request uses.",
            multiprocess_mode="livesum",
        )
        workers = Gauge("mlflow_workers", "Workers that run.", multiprocess_mode="livesum")
        build = Gauge("mlflow_build_info", "The version that runs.", ["version"], multiprocess_mode="max")
        self.connections.set(0)
        self.waiting.set(0)
        workers.set(1)
        build.labels(version).set(1)
        self.used: set[int] = set()
        self.watch_pools()

    def watch_pools(self) -> None:
        """Follow every pool of this process, MLflow's own and those of its plug-ins."""
        from sqlalchemy import event
        from sqlalchemy.pool import Pool

        # A set and no count: a connection that is broken may be reported more than once.
        @event.listens_for(Pool, "checkout")
        def take(_connection: Any, record: Any, _proxy: Any) -> None:
            self.used.add(id(record))
            self.connections.set(len(self.used))

        @event.listens_for(Pool, "checkin")
        def give(_connection: Any, record: Any) -> None:
            self.used.discard(id(record))
            self.connections.set(len(self.used))

    def begin(self) -> None:
        self.in_progress.inc()

    def end(self, method: str, path: str, status: int, seconds: float) -> None:
        route = group(path)
        method = method if method in METHODS else "other"
        self.in_progress.dec()
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def wait(self, change: int) -> None:
        self.waiting.inc(change)

    def lets_in(self, authorization: bytes) -> bool:
        """Whether a request with this header may read the metrics."""
        if not self.token_file:
            return True
        try:
            token = Path(self.token_file).read_bytes().strip()
        except OSError:
            return False
        given = authorization[len(BEARER) :].strip() if authorization.lower().startswith(BEARER) else b""
        return bool(token) and hmac.compare_digest(given, token)

    def text(self) -> tuple[bytes, str]:
        """All workers' counts and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        forget_dead_workers()
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(folder()))
        return generate_latest(registry), CONTENT_TYPE_LATEST


def forget_dead_workers() -> None:
    """Remove what workers that are gone have left as the present: their requests in progress, say. Counts stay."""
    for path in folder().glob("gauge_live*_*.db"):
        if not os.path.exists(f"/proc/{path.stem.rpartition('_')[2]}"):
            path.unlink(missing_ok=True)


def from_environment(environment: Mapping[str, str]) -> Nothing:
    """What the worker counts with, as the settings say."""
    if "PROMETHEUS_MULTIPROC_DIR" not in environment or environment.get("MLFLOW_SERVICE_METRICS") != "true":
        return Nothing()
    from mlflow.version import VERSION

    return Counts(VERSION, environment.get("MLFLOW_SERVICE_METRICS_TOKEN_FILE", ""))
