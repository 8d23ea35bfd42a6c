"""What a worker counts and logs of a request. The scenario `monitoring` has real workers and a real Prometheus."""

import asyncio
import logging
from base64 import b64encode

import pytest
from mlflow_service.serving import metrics
from mlflow_service.serving.app import Service


@pytest.mark.parametrize(
    "path, group",
    [
        ("/api/2.0/mlflow/runs/log-batch", "runs"),
        ("/ajax-api/3.0/mlflow/traces/tr-0123456789abcdef/info", "traces"),
        ("/api/2.0/mlflow/registered-models/get", "registered-models"),
        ("/api/2.0/mlflow-artifacts/artifacts/1/0123abcd/artifacts/model.pkl", "artifacts"),
        ("/get-artifact", "artifacts"),
        ("/model-versions/get-artifact", "artifacts"),
        ("/ajax-api/2.0/mlflow/upload-artifact", "artifacts"),
        ("/api/2.0/mlflow/something-new/7", "other api"),
        ("/v1/traces", "otlp"),
        ("/gateway/chat/mlflow/invocations", "gateway"),
        ("/health", "health"),
        ("/static-files/static/js/main.0123.js", "ui"),
        ("/", "ui"),
        ("", "ui"),
        ("/0123456789", "other"),
        ("/runs/0123456789", "other"),
    ],
)
def test_path_belongs_to_one_of_a_few_groups(path, group):
    assert metrics.group(path) == group


class Seen(metrics.Nothing):
    """Keeps what it is told."""

    def __init__(self):
        self.begun, self.ended, self.waiting = 0, [], 0

    def begin(self):
        self.begun += 1

    def end(self, method, path, status, seconds):
        self.ended.append((method, path, status))

    def wait(self, change):
        self.waiting += change


def logged(caplog, credentials, status=200, path="/tracking/api/2.0/mlflow/runs/search", counts=None):
    """The log record of one request to a server with a prefix."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "client": None,
        "headers": [(b"authorization", credentials)],
    }
    caplog.clear()
    with caplog.at_level(logging.INFO, "mlflow_service.request"):
        asyncio.run(Service(app, prefix="/tracking", counts=counts)(scope, receive, send))
    (record,) = caplog.records
    return record


def test_request_is_counted_without_the_prefix(caplog):
    seen = Seen()
    logged(caplog, b"", 404, counts=seen)
    assert seen.ended == [("GET", "/api/2.0/mlflow/runs/search", 404)]
    assert (seen.begun, seen.waiting) == (1, 0)


def test_user_is_logged_and_the_password_is_not(caplog):
    record = logged(caplog, b"Basic " + b64encode(b"alice:correct:horse"))
    assert record.user == "alice"
    assert "correct" not in str(record.__dict__)


@pytest.mark.parametrize(
    "credentials",
    [
        b"",
        b"Bearer alice",
        b"Basic ?",
        b"Basic " + b64encode(b"alice"),
        b"Basic " + b64encode(b"a\nb:c"),
        b"Basic \xff",
    ],
)
def test_user_is_not_logged_where_there_is_none(caplog, credentials):
    assert not hasattr(logged(caplog, credentials), "user")


def test_name_that_was_refused_is_not_logged(caplog):
    assert not hasattr(logged(caplog, b"Basic " + b64encode(b"alice:wrong"), 401), "user")


def test_path_with_a_line_break_stays_on_its_line(caplog):
    assert "\n" not in logged(caplog, b"", path="/a\nGET / 200 from 10.0.0.1").getMessage()


def test_token_is_wanted_where_there_is_one(tmp_path):
    counts = object.__new__(metrics.Counts)
    counts.token_file = str(tmp_path / "token")
    assert not counts.lets_in(b"Bearer ")
    (tmp_path / "token").write_text("abc\n")
    assert counts.lets_in(b"Bearer abc")
    assert not counts.lets_in(b"Bearer abcd")
    assert not counts.lets_in(b"")
    (tmp_path / "token").write_text("")
    assert not counts.lets_in(b"Bearer ")
    counts.token_file = ""
    assert counts.lets_in(b"")
