"""What the operator's runs of Ansible do, and what they leave alone.

On one of the machines, because none of it depends on Debian's version. Where a test changes a setting, the next
test's run takes it back.
"""

import pytest
from fixtures import wait_until

testinfra_hosts = ["ansible://mlflow-default-bookworm"]

REQUESTS = 100


def test_run_without_changes_changes_nothing(machine):
    before = machine.state()
    assert machine.playbook().changed == 0
    assert machine.state() == before


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
    assert "p@ss" not in checked.output
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
    assert "mlflow-artifacts" in verified.output


def test_tag_configure_writes_the_settings_and_no_more(machine):
    pid = machine.main_pid()
    tagged = machine.playbook("--tags", "configure", "-e", "mlflow_workers=3")
    assert tagged.status == 0
    assert 'MLFLOW_WORKERS="3"' in machine.run("cat /etc/mlflow/mlflow.env")
    assert machine.main_pid() == pid
    machine.playbook("--tags", "configure")
    # The server still runs with what it was started with; the next whole run takes up what was written.
    assert machine.converge().status == 0


@pytest.mark.parametrize("tag", ["account", "release", "database", "activate", "verify", "prune", "summary"])
def test_every_phase_runs_by_its_tag_alone(machine, tag):
    tagged = machine.playbook("--tags", tag)
    assert (tagged.status, tagged.changed) == (0, 0), tagged.output[-3000:]


def test_settings_written_by_a_killed_run_are_taken_up_by_the_next(machine):
    machine.playbook("--tags", "configure", "-e", "mlflow_workers=3")
    pid = machine.main_pid()
    machine.converge(mlflow_workers=3)
    assert machine.main_pid() != pid
    assert len(machine.workers()) == 3


def runs(machine):
    """Runs that the clients have created so far."""
    query = "SELECT count(*) FROM runs WHERE name = 'traffic'"
    code = f"import sqlite3; print(sqlite3.connect('/var/lib/mlflow/mlflow.db', 60).execute({query!r}).fetchone()[0])"
    return int(machine.host.check_output("python3 -c %s", code))


def test_restarts_and_a_changed_setting_refuse_no_client(machine):
    with machine.traffic() as seen:
        for _ in range(3):
            machine.run("systemctl restart mlflow.service")
        changed = machine.converge(mlflow_log_level="WARNING")
        before = runs(machine)
        wait_until(lambda: runs(machine) > before + REQUESTS // 2, 120, "enough requests came through")
    assert changed.changed > 0
    assert seen.failures == []
    assert seen.answered >= REQUESTS


def test_no_verbosity_shows_a_secret(machine):
    said = machine.playbook("-vvv", "--diff", "-e", '{"mlflow_environment": {"PROMISE_SECRET": "another p@ss:w/rd"}}')
    assert said.status == 0
    assert said.changed > 0
    assert "p@ss" not in said.output


def test_new_port_moves_the_socket_and_old_one_is_free(machine):
    machine.converge(mlflow_port=5002)
    assert machine.is_healthy()
    assert machine.listens_on(5002)
    assert not machine.listens_on(5001)


def test_static_prefix_serves_everything_below_it_and_text_logs_are_text(machine):
    machine.converge(mlflow_static_prefix="/tracking", mlflow_log_format="text")
    assert machine.is_healthy()
    logged = machine.client("log_everything.py", url=f"{machine.url}/tracking")
    assert logged["run_id"]
    assert machine.listens_on(5001)
    last = machine.run("journalctl --identifier=mlflow --output=cat --no-pager --lines=1")
    assert " INFO mlflow_service.request " in last


def test_job_runner_starts_with_one_setting_and_extra_option_reaches_mlflow_server(machine):
    machine.converge(mlflow_jobs_enabled=True, mlflow_server_options=["--secrets-cache-ttl", "30"])
    assert machine.is_healthy()
    assert "huey" in machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").lower()
    assert "--secrets-cache-ttl 30" in machine.run(f"tr '\\0' ' ' < /proc/{machine.main_pid()}/cmdline")


def test_extra_package_is_installed_beside_the_lock_and_own_ca_is_trusted(machine):
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    machine.converge(mlflow_extra_packages=["tomli-w==1.2.0"], mlflow_ca_bundle=bundle)
    assert f"REQUESTS_CA_BUNDLE={bundle}" in machine.run(f"tr '\\0' '\\n' < /proc/{machine.main_pid()}/environ")
    assert machine.run("/opt/mlflow/current/bin/python -c 'import tomli_w, mlflow_service; print(1)'") == "1"


def test_settings_that_do_not_start_leave_the_old_server_serving(machine):
    machine.converge()
    said = machine.refuses(mlflow_server_options=["--no-such-option"])
    assert "MLflow 3.17.2 did not pass (systemctl restart mlflow.service" in said
    assert "--no-such-option" in said.partition("What the server said last:")[2]
    assert "The release and the settings that ran before run again." in said
    assert machine.is_healthy()
    assert machine.playbook().changed == 0
