"""What the operator's runs of Ansible do, and what they leave alone.

Where a test changes a setting, the next test's run takes it back.
"""

import pytest
from fixtures import wait_until

REQUESTS = 40


def test_stopped_server_is_started_by_the_next_run(machine):
    machine.run("systemctl stop mlflow.socket mlflow.service")
    machine.converge()
    assert machine.is_healthy()


def test_check_mode_finds_nothing_to_change(machine):
    before = machine.state()
    checked = machine.playbook("--check", "--diff")
    assert checked.status == 0
    assert checked.changed == 0
    assert machine.state() == before


def test_check_mode_tells_of_a_change_and_makes_none(machine):
    before = machine.state()
    checked = machine.playbook("--check", "--diff", "-e", "mlflow_workers=3")
    assert checked.status == 0
    assert checked.changed > 0
    assert machine.state() == before


def test_verify_playbook_changes_nothing(machine):
    before = machine.state()
    verified = machine.playbook(playbook="playbooks/verify.yml")
    assert (verified.status, verified.changed) == (0, 0)
    assert machine.state() == before


def test_verify_playbook_says_what_is_wrong(machine):
    machine.run("chmod 0 /var/lib/mlflow/artifacts")
    try:
        verified = machine.playbook(playbook="playbooks/verify.yml")
    finally:
        machine.run("chmod 0750 /var/lib/mlflow/artifacts")
    assert verified.status != 0
    written = "http://127.0.0.1:5001 does not work: PUT /api/2.0/mlflow-artifacts/artifacts/.mlflow-check/"
    assert written in verified.said
    assert " answered 500: " in verified.said


@pytest.mark.parametrize("tag", ["account", "release", "database", "activate", "verify"])
def test_phases_run_by_their_tags_alone(machine, tag):
    tagged = machine.playbook("--tags", tag)
    assert (tagged.status, tagged.changed) == (0, 0), tagged.output[-3000:]


def test_tag_configure_writes_the_settings_and_the_next_run_takes_them_up(machine):
    """As it does with those that a killed run has written."""
    pid = machine.main_pid()
    tagged = machine.playbook("--tags", "configure", "-e", "mlflow_workers=1")
    assert tagged.status == 0
    assert 'MLFLOW_WORKERS="1"' in machine.run("cat /etc/mlflow/mlflow.env")
    assert machine.main_pid() == pid
    machine.converge(mlflow_workers=1)
    assert machine.main_pid() != pid
    assert "MLFLOW_WORKERS=1" in machine.run(f"cat /proc/{machine.main_pid()}/environ").split("\0")


def runs(machine):
    """Runs that the clients have created so far."""
    query = "SELECT count(*) FROM runs WHERE name = 'traffic'"
    code = f"import sqlite3; print(sqlite3.connect('/var/lib/mlflow/mlflow.db', 60).execute({query!r}).fetchone()[0])"
    return int(machine.host.check_output("python3 -c %s", code))


def test_restart_and_a_changed_setting_refuse_no_client(machine):
    with machine.traffic() as seen:
        machine.run("systemctl restart mlflow.service")
        changed = machine.converge(mlflow_log_level="WARNING")
        before = runs(machine)
        wait_until(lambda: runs(machine) > before + REQUESTS // 2, 120, "enough requests came through")
    assert changed.changed > 0
    assert seen.failures == []
    assert seen.answered >= REQUESTS


def test_settings_that_do_not_start_leave_the_old_server_serving(machine):
    written = "cat /etc/mlflow/mlflow.env /etc/systemd/system/mlflow.* | sha256sum"
    before = machine.run(written)
    said = machine.refuses(mlflow_server_options=["--no-such-option"])
    assert "MLflow 3.17.2 did not pass (systemctl restart mlflow.service" in said
    assert "--no-such-option" in said.partition("What the server said last:")[2]
    assert "The release and the settings that ran before run again." in said
    assert machine.is_healthy()
    assert machine.run(written) == before


def test_port_prefix_jobs_log_format_ca_and_an_option_of_mlflow_server_are_what_the_settings_say(machine):
    machine.converge(
        mlflow_port=5002,
        mlflow_static_prefix="/tracking",
        mlflow_jobs_enabled=True,  # which starts processes of its own
        mlflow_workers=1,
        mlflow_log_format="text",
        mlflow_ca_bundle="/etc/ssl/certs/ca-certificates.crt",
        mlflow_server_options=["--secrets-cache-ttl", "30"],
    )
    assert machine.is_healthy()
    assert (machine.listens_on(5002), machine.listens_on(5001)) == (True, False)
    environment = machine.run(f"tr '\\0' '\\n' < /proc/{machine.main_pid()}/environ").splitlines()
    assert "REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt" in environment
    lines = machine.run("journalctl --identifier=mlflow --output=cat --no-pager --lines=20")
    assert " INFO mlflow_service.request " in lines
    address = machine.run("hostname -I").split()[0]  # this port of the container is not published
    assert machine.client("log_everything.py", url=f"http://{address}:5002/tracking")["run_id"]
    assert "huey" in machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").lower()
    assert "--secrets-cache-ttl 30" in machine.run(f"tr '\\0' ' ' < /proc/{machine.main_pid()}/cmdline")
