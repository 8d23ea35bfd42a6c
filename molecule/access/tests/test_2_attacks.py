"""Attacks on MLflow that were published, each as the admin, who may do more than anybody, and attacks on any server.

Not here: CVE-2024-0520 (a client that loads a data set from an HTTP server that lies about a file's name),
which is none of the server's. CVE-2025-14297 and CVE-2025-15381 (routes that asked for no permission) are what
test_1_routes.py is about.
"""

import secrets
import socket
import subprocess

import pytest
from callers import Answer, Caller
from fixtures import ROOT, Machine

HOLD_CONNECTIONS = (ROOT / "molecule" / "access" / "on_machine" / "hold_connections.py").read_text()
SLOW_CONNECTIONS = 1000
FOLDERS = {
    "CVE-2023-1177": ["/etc", "file:///etc", "file://localhost/etc", "mlflow-artifacts:/../../../../../../etc"],
    "CVE-2023-6909": ["http:///?/../../../../../../../../../etc/", "mlflow-artifacts:/?/../../../../../../../../etc"],
    "CVE-2024-1483": ["http:///#/../../../../../../../../../etc/"],
    "CVE-2024-1558": ["//proc/self/root/etc", "file:////proc/self/root/etc", "file:/etc/../etc"],
    "CVE-2024-2928": ["mlflow-artifacts:/x#/../../../../../../../../etc", "file:///x#/../../../../../../../../etc"],
    "CVE-2024-3848": ["http://host/#/../../../../../../../../../etc/", "http://host#/etc/"],
    "CVE-2025-11201": ["models:/../../../../etc", "runs:/../../../../etc", "mlflow-artifacts:/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc"],
}  # fmt: skip
EACH_FOLDER = [pytest.param(folder, id=f"{cve} {folder}") for cve, folders in FOLDERS.items() for folder in folders]
UP = [
    "..",
    "%2e%2e",
    "..%2f..",
    "%252e%252e",
    "%252e%252e%252f%252e%252e",
    "..%5c..",
    "%2e%2e%2f%2e%2e",
    "./..",
    "x/../..",
]


def assert_tells_nothing(*answers: Answer) -> None:
    for answer in answers:
        assert "root:x:0" not in answer.body
        assert "MLFLOW_BACKEND_STORE_URI" not in answer.body


def new_run(admin: Caller, **experiment: str) -> str:
    """A run in an experiment of its own; empty where the experiment was refused."""
    made = admin.post("/api/2.0/mlflow/experiments/create", name=secrets.token_hex(8), **experiment)
    if made.status != 200:
        return ""
    run = admin.post("/api/2.0/mlflow/runs/create", experiment_id=made.json["experiment_id"])
    return run.json["run"]["info"]["run_id"] if run.status == 200 else ""


@pytest.mark.parametrize("folder", EACH_FOLDER)
def test_model_version_reads_no_folder_of_the_machine(admin: Caller, folder: str) -> None:
    """And not as a prompt either, whose sources were not looked at (CVE-2026-2614)."""
    for tags in ([], [{"key": "mlflow.prompt.is_prompt", "value": "true"}]):
        name = secrets.token_hex(8)
        admin.post("/api/2.0/mlflow/registered-models/create", name=name, tags=tags)
        admin.post("/api/2.0/mlflow/model-versions/create", name=name, source=folder, tags=tags)
        asked = {"name": name, "version": "1"}
        assert_tells_nothing(
            admin.get("/model-versions/get-artifact", **asked, path="passwd"),
            admin.get("/model-versions/get-artifact", **asked, path="mlflow/mlflow.env"),
        )


@pytest.mark.parametrize("folder", EACH_FOLDER)
def test_experiment_reads_no_folder_of_the_machine(admin: Caller, folder: str) -> None:
    if run := new_run(admin, artifact_location=folder):
        listed = admin.get("/api/2.0/mlflow/artifacts/list", run_id=run)
        assert "passwd" not in listed.body
        assert_tells_nothing(
            admin.get("/get-artifact", run_uuid=run, path="passwd"),
            admin.get("/get-artifact", run_uuid=run, path="mlflow/mlflow.env"),
        )


@pytest.mark.parametrize("up", UP)
def test_path_of_an_artifact_leads_to_no_file_above(machine: Machine, admin: Caller, up: str) -> None:
    """Neither to read (mlflow/mlflow#7166), nor to write, nor to delete it (CVE-2023-6831)."""
    machine.run("su -s /bin/sh mlflow -c 'echo kept > /var/lib/mlflow/canary'")
    run = new_run(admin)
    deep = "/".join([up] * 8)
    proxied = "/api/2.0/mlflow-artifacts/artifacts"
    assert_tells_nothing(
        admin.call("GET", f"/get-artifact?run_uuid={run}&path={deep}/etc/passwd"),
        admin.call("GET", f"{proxied}/{deep}/etc/passwd"),
        admin.call("GET", f"{proxied}//etc/passwd"),
    )
    for listed in (
        admin.call("GET", f"{proxied}?path={up}"),
        admin.call("GET", f"{proxied}?path={deep}/etc"),
        admin.call("GET", f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={deep}/etc"),
    ):
        assert "canary" not in listed.body
        assert "passwd" not in listed.body
    for target in (f"{up}/canary", f"{up}%2fcanary", "%2fvar%2flib%2fmlflow%2fcanary", "/var/lib/mlflow/canary"):
        admin.call("DELETE", f"{proxied}/{target}")
        admin.call("PUT", f"{proxied}/{target}", b"changed")
    admin.call("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path={up}/canary", b"changed")
    assert machine.run("cat /var/lib/mlflow/canary") == "kept"


@pytest.mark.parametrize("password", ["", "a", "elevenchars"])
def test_no_user_has_a_password_that_is_soon_guessed(admin: Caller, password: str) -> None:
    """CVE-2025-1474, CVE-2025-11200."""
    made = admin.post("/api/2.0/mlflow/users/create", username=secrets.token_hex(8), password=password)
    assert made.status == 400


@pytest.mark.parametrize(
    "path", ["/static-files", "/static-files/", "/static-files/static/", "/static-files/.", "/build/"]
)
def test_no_folder_is_listed(admin: Caller, path: str) -> None:
    answer = admin.get(path)
    assert answer.status == 404, answer
    assert "index.html" not in answer.body


@pytest.mark.parametrize(
    "claimed", ["evil.example", "evil.example:5001", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_server_answers_to_its_own_names_only(admin: Caller, claimed: str) -> None:
    """So a page on a domain whose address becomes this server's can't read from it (DNS rebinding)."""
    assert (
        admin.call("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": claimed}).status == 403
    )


def test_pages_of_other_sites_neither_read_nor_change(admin: Caller) -> None:
    path = "/ajax-api/2.0/mlflow/experiments/create"
    foreign = {"Origin": "https://evil.example"}
    sent = admin.call("POST", path, {"name": "by another site"}, foreign)
    assert sent.status == 403
    asked = admin.call("OPTIONS", path, headers={**foreign, "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in asked.headers
    read = admin.call("GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1", headers=foreign)
    assert "access-control-allow-origin" not in read.headers
    assert admin.get("/api/2.0/mlflow/experiments/get-by-name", experiment_name="by another site").status == 404


def test_pages_of_other_sites_do_not_show_the_interface_in_a_frame(admin: Caller) -> None:
    assert admin.get("/").headers["x-frame-options"] == "SAMEORIGIN"


def test_oversized_header_ends_that_request_alone(admin: Caller) -> None:
    with socket.create_connection(admin.address, timeout=60) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"x" * 2_000_000 + b"\r\n\r\n")
        try:
            answered = connection.recv(100)
        except ConnectionError:
            answered = b""
    assert not answered.startswith(b"HTTP/1.1 2")
    assert admin.get("/api/2.0/mlflow/users/current").status == 200


@pytest.mark.parametrize("path", ["/api/2.0/mlflow/runs/log-batch", "/ajax-api/2.0/mlflow/upload-artifact", "/graphql"])
def test_server_itself_takes_no_body_beyond_its_limit(stranger: Caller, path: str) -> None:
    """Also where it stands behind no front; nobody has to know a password to be refused."""
    refused = stranger.call("POST", path, b"x" * (33 << 20))
    assert refused.status == 413
    assert "The request's body has more than 32 MiB, the limit that mlflow_max_body_mb sets." in refused.body


def test_artifact_may_be_larger_than_any_other_body(admin: Caller) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/larger-than-a-body"
    assert admin.call("PUT", path, b"x" * (40 << 20), {"Content-Type": "application/octet-stream"}).status == 200
    assert admin.call("DELETE", path).status == 200


def test_service_can_not_take_all_of_the_machine(machine: Machine) -> None:
    names = "MemoryHigh,MemoryMax,TasksMax,OOMScoreAdjust,OOMPolicy"
    shown = dict(line.split("=") for line in machine.run(f"systemctl show --property {names} mlflow").splitlines())
    total = int(machine.run("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024
    assert int(shown["MemoryHigh"]) < int(shown["MemoryMax"]) < total
    assert (shown["TasksMax"], shown["OOMScoreAdjust"], shown["OOMPolicy"]) == ("4096", "300", "continue")


def test_slow_connections_keep_nobody_out(machine: Machine, admin: Caller, alice: Caller) -> None:
    pid = machine.main_pid()
    command = ["docker", "exec", "--interactive", machine.name, "python3", "-c", HOLD_CONNECTIONS]
    arguments = [str(machine.port), str(SLOW_CONNECTIONS)]
    holding = subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holding.stdout.readline().strip() == "open"
        for honest in (admin, alice):
            for _ in range(20):
                newcomer = Caller(machine.url)
                newcomer.authorization = honest.authorization
                assert newcomer.post("/api/2.0/mlflow/experiments/search", max_results=1).status == 200
        assert machine.is_healthy()
    finally:
        holding.communicate(timeout=60)
    assert machine.main_pid() == pid
