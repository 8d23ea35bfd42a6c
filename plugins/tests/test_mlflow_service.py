"""mlflow_service: what wraps MLflow on the machine, without MLflow. The scenarios test it with MLflow."""

import asyncio
import gc
import http.server
import importlib
import json
import logging
import socket
import threading

import pytest
from mlflow import env_line
from mlflow_service import admin, check
from mlflow_service.accounts import client
from mlflow_service.serving.app import WARM_UP, Service
from mlflow_service.stores import copy_at_start
from mlflow_service.system import runtime, settings, without_gc


def answering(statuses, seen):
    """An ASGI application that answers each request with the next status, then with 200 for ever."""
    statuses = iter(statuses)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        seen.append((scope["method"], scope["path"]))
        await send({"type": "http.response.start", "status": next(statuses, 200), "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def start(service):
    """Run the lifespan of the application; returns what it told the server."""
    told = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        told.append(message["type"])

    asyncio.run(service({"type": "lifespan"}, receive, send))
    return told


@pytest.fixture
def runtime_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


def test_nothing_is_searched_for_garbage_while_it_is_imported_or_later():
    kept = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError), without_gc.in_one_go():
            assert not gc.isenabled()
            importlib.import_module("no_such_module")
        assert gc.isenabled()
        assert gc.get_freeze_count() > kept
    finally:
        gc.unfreeze()


def test_worker_serves_only_after_it_has_answered_every_kind_of_request(runtime_folder):
    seen = []
    assert start(Service(answering([], seen))) == ["lifespan.startup.complete"]
    assert seen == [(method, path.partition("?")[0]) for method, path, _ in WARM_UP]
    assert len(list(runtime_folder.glob("worker-*"))) == 1


def test_server_error_is_tried_again_until_it_is_gone(runtime_folder, monkeypatch):
    monkeypatch.setattr("mlflow_service.serving.app.WARM_UP_RETRY_SECONDS", 0)
    seen = []
    start(Service(answering([500, 503], seen)))
    assert seen[:3] == [("GET", "/health")] * 3


def test_prefix_is_part_of_every_warm_up_path(runtime_folder):
    seen = []
    start(Service(answering([], seen), prefix="/tracking"))
    assert all(path.startswith("/tracking/") for _, path in seen)


def request(service, path="/api/2.0/mlflow/runs/search"):
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"token=secret", "client": ("10.1.2.3", 5)}

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        pass

    asyncio.run(service(scope, receive, send))


def test_each_request_is_logged_without_its_query(caplog):
    with caplog.at_level(logging.INFO, "mlflow_service.request"):
        request(Service(answering([404], [])))
    (record,) = caplog.records
    assert (record.method, record.path, record.status) == ("GET", "/api/2.0/mlflow/runs/search", 404)
    assert record.client == "10.1.2.3"
    assert record.duration_ms >= 0
    assert "secret" not in str(record.__dict__)


def test_request_that_raises_is_logged_as_server_error(caplog):
    async def broken(scope, receive, send):
        raise ValueError("broken")

    with caplog.at_level(logging.INFO, "mlflow_service.request"), pytest.raises(ValueError, match="broken"):
        request(Service(broken))
    assert caplog.records[0].status == 500


def at_once(path, service_prefix=""):
    """How many of ten requests to the path an application saw at once, with turns for two."""
    running, most = 0, 0

    async def app(scope, receive, send):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        assert (await receive())["body"] == b"{}"
        running -= 1

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        pass

    async def ten(service):
        scope = {"type": "http", "method": "POST", "path": service_prefix + path}
        await asyncio.gather(*(service(scope, receive, send) for _ in range(10)))

    asyncio.run(ten(Service(app, prefix=service_prefix, database_requests=2)))
    return most


@pytest.mark.parametrize("prefix", ["", "/tracking"])
@pytest.mark.parametrize("path", ["/api/2.0/mlflow/runs/log-batch", "/ajax-api/3.0/mlflow/traces/search"])
def test_requests_to_the_database_take_turns(path, prefix):
    assert at_once(path, prefix) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow-artifacts/artifacts/a",
        "/get-artifact",
        "/ajax-api/2.0/mlflow/gateway-proxy",
        "/gateway/x/mlflow/invocations",
        "/health",
    ],
)
def test_artifacts_and_calls_to_others_take_no_turns(path):
    assert at_once(path) == 10


def test_client_that_reads_slowly_keeps_no_turn():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def two(service):
        reading = asyncio.Event()
        scope = {"type": "http", "method": "GET", "path": "/api/2.0/mlflow/runs/get"}

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def slow(message):
            await reading.wait()

        async def quick(message):
            reading.set()

        await asyncio.wait_for(asyncio.gather(service(scope, receive, slow), service(scope, receive, quick)), 10)

    asyncio.run(two(Service(app, database_requests=1)))


def test_systemd_hears_of_readiness_once_all_workers_are(runtime_folder, monkeypatch, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        (runtime_folder / "worker-1").touch()
        runtime.watch_in_background(workers=2)
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
        systemd.settimeout(10)
        (runtime_folder / "worker-2").touch()
        assert systemd.recv(100) == b"READY=1\nSTATUS=2 workers ready"


STORE = "sqlite:////var/lib/mlflow/mlflow.db"


@pytest.mark.parametrize(
    "typed, run",
    [
        (["gc"], ["gc", "--backend-store-uri", STORE]),
        (["gc", "--backend-store-uri=x"], ["gc", "--backend-store-uri=x"]),
        (["db", "upgrade"], ["db", "upgrade", STORE]),
        (["db", "upgrade", "sqlite:///x"], ["db", "upgrade", "sqlite:///x"]),
        (["db", "--help"], ["db", "--help"]),
        (["experiments", "search"], ["experiments", "search"]),
    ],
)
def test_admin_adds_the_store_where_it_would_have_to_be_typed(typed, run):
    assert admin.with_store(typed, STORE) == run


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that keeps artifacts and answers as its class attributes say."""

    version = b"3.17.2"
    database_status = 200
    kept: bytes | None = None

    def answer(self, status=200, body=b"OK"):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        bodies = {"/health": b"OK", "/version": self.version}
        self.answer(body=bodies.get(self.path, type(self).kept or b""))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.database_status, b'{"experiments": []}')

    def do_PUT(self):
        type(self).kept = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def do_DELETE(self):
        self.answer()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """A function that starts a server and returns the check's result against it."""
    started = []

    def run(**attributes):
        handler = type("Handler", (Answers,), attributes)
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return check.check(client.Server(f"http://127.0.0.1:{started[-1].server_port}"), "3.17.2")

    yield run
    for one in started:
        one.shutdown()


def failed(result):
    return [name for name, step in result["steps"].items() if not step["ok"]]


def test_server_that_works_passes(server):
    result = server()
    assert result["ok"], json.dumps(result)


def test_other_version_is_found(server):
    result = server(version=b"3.16.1")
    assert failed(result) == ["version"]
    assert result["steps"]["version"]["error"] == "the server runs MLflow 3.16.1, the release is 3.17.2"


def test_database_that_is_gone_is_found_though_health_answers(server):
    result = server(database_status=503)
    assert failed(result) == ["database"]
    assert result["steps"]["health"]["ok"]


def test_artifact_that_comes_back_changed_is_found(server):
    result = server(do_PUT=lambda self: (self.rfile.read(int(self.headers["Content-Length"])), self.answer()))
    assert failed(result) == ["artifacts"]


def test_server_that_is_not_there_is_one_sentence_a_step():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = check.check(client.Server(f"http://127.0.0.1:{port}"), "3.17.2")
    assert failed(result) == list(check.STEPS)
    assert "got no answer: [Errno 111] Connection refused" in result["steps"]["health"]["error"]


ODD = {"PASSWORD": "  p@ss:w/rd#%?&x \"$'`\\ñ ", "KEY": "first line\nsecond line\n", "EMPTY": "", "PORT": "5001"}


def test_settings_file_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "mlflow.env"
    file.write_text("# settings\n" + "".join(env_line(value, name) + "\n" for name, value in ODD.items()))
    assert settings.read(file) == ODD


@pytest.fixture
def previous(tmp_path, monkeypatch):
    """Where the settings of a previous store would be; the service's home is the same folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_SERVICE_PREVIOUS_SETTINGS", str(tmp_path / "previous.env"))
    return tmp_path / "previous.env"


def test_nothing_is_taken_over_where_no_store_was_left(previous):
    copy_at_start.take_over()
    assert not copy_at_start.DONE.exists()


def test_store_is_taken_over_once(previous):
    previous.write_text("these are no settings: reading them would fail")
    copy_at_start.DONE.write_text(str(previous.stat().st_mtime_ns))
    copy_at_start.take_over()


def test_settings_that_are_new_are_taken_over_whatever_was_before(previous):
    previous.write_text('MLFLOW_PORT="5001"\n')
    copy_at_start.DONE.write_text("0")
    with pytest.raises((KeyError, ImportError)):  # no store in them, and no MLflow here
        copy_at_start.take_over()
