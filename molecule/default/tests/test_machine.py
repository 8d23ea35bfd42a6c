"""What a provisioned machine looks like to its clients and its operator, on any Debian."""

import json

from fixtures import wait_until

SECRET = 'p@ss:w/rd#%?&x "$`\\ñ '  # molecule.yml sets it as PROMISE_SECRET
KEY = "first-line-of-a-key\nsecond-line-of-a-key\n"  # and this as PROMISE_KEY


def test_settings_reach_the_server_letter_by_letter(machine):
    environment = machine.run(f"cat /proc/{machine.main_pid()}/environ").split("\0")
    assert f"PROMISE_SECRET={SECRET}" in environment
    assert f"PROMISE_KEY={KEY}" in environment


def test_every_log_line_is_json(machine):
    machine.run("mlflow-check")
    lines = [json.loads(line) for line in log_lines(machine)]
    assert lines and all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    requests = [line for line in lines if line["logger"] == "mlflow_service.request"]
    assert any(line["path"] == "/api/2.0/mlflow/experiments/search" for line in requests)
    for line in requests:
        assert {"method", "path", "status", "duration_ms", "client"} <= line.keys()


def log_lines(machine):
    """What the server has logged since it was started last."""
    start = machine.run("systemctl show --property InvocationID --value mlflow.service")
    journal = f"journalctl --identifier=mlflow _SYSTEMD_INVOCATION_ID={start}"
    return machine.run(f"{journal} --output=cat --no-pager").splitlines()


def test_admin_command_says_that_it_needs_root(machine):
    refused = machine.host.run("setpriv --reuid=mlflow --regid=mlflow --clear-groups mlflow-admin gc")
    assert refused.rc == 1
    assert "run it as root" in refused.stderr


def answer(machine, path="/api/2.0/mlflow/experiments/search?max_results=1", method="GET", **headers):
    """Status and headers of the answer to one request, sent on the machine itself."""
    given = json.dumps({name.replace("_", "-"): value for name, value in headers.items()})
    code = (
        "import http.client, json;"
        "c = http.client.HTTPConnection('127.0.0.1', 5001, timeout=60);"
        f"c.request({method!r}, {path!r}, headers=json.loads({given!r}));"
        "a = c.getresponse(); print(json.dumps([a.status, dict(a.getheaders())]))"
    )
    done = machine.host.run("python3 -c %s", code)
    assert done.rc == 0, done.stderr
    status, answered = json.loads(done.stdout)
    return status, {name.lower(): value for name, value in answered.items()}


def test_clients_may_use_every_name_of_the_machine(machine):
    addresses = machine.run("hostname -I").split()
    for name in ["localhost", "127.0.0.1", "[::1]", machine.run("hostname"), *addresses, "mlflow-service"]:
        assert answer(machine, Host=name)[0] == 200, name
        assert answer(machine, Host=f"{name}:5001")[0] == 200, name


def test_clients_may_use_no_foreign_name(machine):
    assert answer(machine, Host="evil.example.com")[0] == 403


def test_pages_of_a_foreign_origin_may_not_change_anything(machine):
    path = "/api/2.0/mlflow/experiments/create"
    assert answer(machine, path, "POST", Origin="https://evil.example.com")[0] == 403
    assert (
        answer(machine, path, "POST", Origin="https://notebooks.example.com")[0] == 400
    )  # let in; the body is missing


def test_ui_may_be_framed_by_itself_only(machine):
    assert answer(machine, "/")[1]["x-frame-options"] == "SAMEORIGIN"


def test_training_job_gets_back_what_it_logged_even_after_a_reboot(machine):
    logged = machine.client("log_everything.py")
    machine.reboot()
    wait_until(lambda: machine.host.service("mlflow.service").is_running, 60, "the server runs after the boot")
    assert machine.is_healthy()
    assert machine.client("read_run.py", logged["run_id"], logged["experiment"])["status"] == "FINISHED"
