"""Removed with the data kept, and taken up again: with the ids that the data have, or whatever has become of them."""

import pytest
from outputs import ASIDE, said

KEPT = ["/etc/mlflow", "/var/backups/mlflow", "/var/lib/mlflow"]


def owner(machine, path: str = "/var/lib/mlflow/mlflow.db") -> str:
    return machine.run(f"stat -c '%u %g' {path}")


def kept_state(machine) -> str:
    return machine.run("find /var/lib/mlflow /var/backups/mlflow /etc/mlflow -printf '%p %u %g %m %s\\n' | sort")


@pytest.fixture(scope="module")
def logged() -> dict:
    """What the first test has logged, for the last one to read."""
    return {}


def test_hanging_server_is_removed_without_what_a_server_needs(machine, remains, logged):
    logged.update(machine.client("log_everything.py"))
    machine.run("install -d -m 750 -g mlflow /etc/mlflow/secrets && echo generated > /etc/mlflow/secrets/key")
    assert machine.playbook(playbook="playbooks/backup.yml").status == 0
    machine.run(f"cp -al /opt/mlflow {ASIDE}")
    logged["owner"] = owner(machine)
    machine.run("systemctl kill --signal=SIGSTOP mlflow.service")
    gone = machine.converge(
        mlflow_state="absent",
        mlflow_version="9.9.9",
        mlflow_port=70000,
        mlflow_artifacts_location="gs://bucket",
        mlflow_gcp_auth="key_file",
        mlflow_gcp_key_file="/nowhere.json",
    )
    assert gone.changed == 1
    assert remains() == KEPT
    assert machine.run("find /etc/mlflow -type f") == "/etc/mlflow/secrets/key"
    words = said(gone)
    assert "Kept: /var/backups/mlflow (1 backup)" in words
    assert "playbooks/uninstall.yml -e mlflow_purge=true deletes it" in words
    assert "Never touched from here: gs://bucket" in words


def test_port_is_closed(machine):
    assert not machine.listens_on(5001)


def test_second_run_changes_nothing(machine, uninstall):
    before = kept_state(machine)
    assert uninstall().changed == 0
    assert uninstall("--check").changed == 0
    assert kept_state(machine) == before


def test_kept_data_keep_their_ids_and_let_only_root_in(machine, logged):
    assert owner(machine) == logged["owner"]
    assert owner(machine, "/var/lib/mlflow/artifacts") == logged["owner"]
    uid = logged["owner"].split()[0]
    assert machine.run("stat -c '%U %G %a' /var/lib/mlflow /etc/mlflow/secrets").splitlines() == ["root root 700"] * 2
    assert machine.host.run(f"setpriv --reuid={uid} --clear-groups cat /var/lib/mlflow/mlflow.db").rc != 0


def test_new_account_takes_the_ids_of_the_data(machine, uninstall, logged):
    logged["owner"] = "601 602"  # as on a machine that the data have been moved from
    machine.run("chown -R 601:602 /var/lib/mlflow/*")
    machine.playbook("--tags", "account")
    assert machine.run("echo $(id -u mlflow) $(id -g mlflow)") == logged["owner"]
    assert machine.run("stat -c '%U %G %a' /var/lib/mlflow") == "mlflow mlflow 750"
    assert machine.run("stat -c '%U %G %a' /etc/mlflow/secrets") == "root mlflow 750"
    assert uninstall().changed == 1  # a machine with an account and no more


def test_ids_that_another_account_has_now_are_left_to_it(machine, logged):
    uid, gid = logged["owner"].split()
    machine.run(f"groupadd --gid {gid} stranger && useradd --system --uid {uid} --gid {gid} stranger")
    checked = machine.playbook("--tags", "account", "--check")
    assert (checked.status, checked.changed) == (0, 4), checked.output
    assert owner(machine) == logged["owner"]
    given = machine.playbook("--tags", "account")
    assert given.status == 0, given.output
    assert machine.run("find /var/lib/mlflow ! -user mlflow -o ! -group mlflow") == ""
    assert machine.run("id -u mlflow") != uid


def test_handing_over_that_was_killed_is_finished(machine):
    machine.run("chown -R stranger /var/lib/mlflow/artifacts")
    assert machine.playbook("--tags", "account").changed == 1
    assert machine.run("find /var/lib/mlflow ! -user mlflow") == ""


def test_server_comes_back_with_every_run(machine, logged):
    machine.run(f"mkdir /opt/mlflow && cp -al {ASIDE}/releases {ASIDE}/uv-* /opt/mlflow")
    machine.converge()
    assert machine.is_healthy()
    assert machine.client("read_run.py", logged["run_id"], logged["experiment"])["status"] == "FINISHED"
    assert machine.playbook().changed == 0


def test_half_of_an_installation_is_removed(machine, uninstall, remains):
    machine.run("rm /etc/systemd/system/mlflow.service /opt/mlflow/current /etc/mlflow/mlflow.env")
    machine.run("mkdir -p /opt/mlflow/releases/.build/venv /etc/mlflow/rollback && touch /etc/mlflow/rollback/0")
    gone = uninstall()
    assert gone.changed == 1
    assert remains() == KEPT


def test_what_others_have_put_there_stays(machine, uninstall):
    machine.run("mkdir -p /opt/mlflow/releases /etc/mlflow && touch /etc/mlflow/own.pem /etc/mlflow/mlflow.env")
    machine.run("useradd --system --home-dir /srv/else mlflow")
    words = said(uninstall())
    assert "/etc/mlflow stays: the role has not made /etc/mlflow/own.pem." in words
    assert machine.run("find /etc/mlflow -type f | sort").split() == ["/etc/mlflow/own.pem", "/etc/mlflow/secrets/key"]
    assert "The account mlflow stays: it is no system account with the home /var/lib/mlflow." in words
    assert machine.run("getent passwd mlflow").split(":")[5] == "/srv/else"
    assert uninstall().changed == 0
    machine.run("rm /etc/mlflow/own.pem && userdel mlflow")


def test_confirmed_purge_deletes_the_rest(machine, uninstall, remains):
    settings = {"mlflow_purge": True, "mlflow_purge_confirm": "another, mlflow-removal"}
    gone = uninstall(**settings)
    assert gone.status == 0, gone.output
    words = said(gone)
    assert "/var/backups/mlflow (1 backup, " in words
    assert "with 4 runs in 2 experiments)" in words
    assert "/etc/mlflow/secrets (the generated secrets, 10 bytes)" in words
    assert remains() == []
    assert uninstall(**settings).changed == 0


def test_bare_machine_has_nothing_to_remove(uninstall):
    assert uninstall().changed == 0
