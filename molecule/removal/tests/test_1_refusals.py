"""What is refused while a server runs: in one sentence, and before anything is touched."""

import re
import subprocess
from pathlib import Path

import pytest
from fixtures import ROOT
from outputs import said

WRONG = {
    "root": ({"mlflow_install_dir": "/"}, "mlflow_install_dir is /, which belongs to the system"),
    "system folder": ({"mlflow_config_dir": "/etc"}, "mlflow_config_dir is /etc, which belongs to the system"),
    "relative": ({"mlflow_data_dir": "data"}, "mlflow_data_dir is data; it must be an absolute path"),
    "other releases": ({"mlflow_install_dir": "/srv/mlflow"}, "has /opt/mlflow, but mlflow_install_dir is /srv/mlflow"),
    "other data": ({"mlflow_data_dir": "/srv/mlflow"}, "has /var/lib/mlflow, but mlflow_data_dir is /srv/mlflow"),
    "link to a system folder": (
        {"mlflow_backup_dir": "/srv/link"},
        "mlflow_backup_dir is /srv/link, a link to /var/lib, which belongs",
    ),
    "other account": ({"mlflow_user": "nobody"}, "has mlflow, but mlflow_user is nobody; set it to that"),
    "system's artifacts": (
        {"mlflow_purge": True, "mlflow_artifacts_location": "/var", "mlflow_artifacts_folder": "lib"},
        "mlflow_artifacts_location is /var/lib, which belongs to the system",
    ),
    "another's home": (
        {"mlflow_purge": True, "mlflow_artifacts_location": "/var/www"},
        "mlflow_artifacts_location is /var/www, which holds the home of the account www-data",
    ),
}


@pytest.mark.parametrize("purge", [False, True])
def test_wrong_settings_are_refused(machine, purge):
    before = machine.state()
    wrong = [
        (settings, sentence, "Nothing was removed.")
        for settings, sentence in WRONG.values()
        if settings.get("mlflow_purge", False) is purge
    ]
    machine.run("ln -s /var/lib /srv/link")
    try:
        machine.refuses_each(wrong, playbook="playbooks/uninstall.yml")
    finally:
        machine.run("rm /srv/link")
    assert machine.state() == before


def test_program_that_works_on_the_data_is_waited_for(machine, uninstall):
    before = machine.state()
    machine.run("systemd-run --unit=by-hand --uid=mlflow sleep infinity")
    try:
        refused = uninstall()
    finally:
        machine.run("systemctl stop by-hand")
    assert refused.status != 0
    assert "runs as the account mlflow; wait for its end, or end it" in said(refused)
    assert machine.state() == before


def test_run_that_changes_the_machine_is_waited_for(machine, uninstall):
    before = machine.state()
    machine.run("systemd-run --unit=other-run flock /opt/mlflow/.build.lock sleep infinity")
    try:
        refused = uninstall()
    finally:
        machine.run("systemctl stop other-run")
    assert "Another run is building a release on this machine; wait for its end" in said(refused)
    assert machine.state() == before


def test_data_that_a_killed_change_has_left_are_not_cut_off_from_their_way_back(machine, uninstall):
    journal = "/etc/mlflow/rollback/change.json"
    machine.run(f'mkdir /etc/mlflow/rollback && echo \'{{"backup": "/var/backups/mlflow/1"}}\' > {journal}')
    try:
        refused = uninstall()
    finally:
        machine.run("rm -r /etc/mlflow/rollback")
    assert f"A change of the data was killed half-way, and {journal} knows the way back" in said(refused)
    assert machine.is_healthy()


def test_service_that_another_has_written_is_not_removed(machine, uninstall):
    unit = "/etc/systemd/system/mlflow.service"
    machine.run(f"cp -a {unit} /srv/ours && sed -i 's#^ExecStart=.*#ExecStart=/usr/bin/mlflow server#' {unit}")
    try:
        refused = uninstall()
    finally:
        machine.run(f"mv /srv/ours {unit}")
    assert "mlflow.service is not one that this role has written" in said(refused)
    assert machine.is_healthy()


def test_check_mode_says_what_would_go_and_touches_nothing(machine, uninstall):
    before = machine.state()
    checked = uninstall("--check", "--diff")
    assert (checked.status, checked.changed) == (0, 1)
    for phrase in ("the running mlflow.socket", "/opt/mlflow/releases", "/etc/mlflow/mlflow.env", "the account mlflow"):
        assert f"removed: {phrase}" in checked.output
    assert "MLflow would be gone from this machine." in checked.output
    assert machine.state() == before


def test_purge_wants_the_name_of_every_host_and_names_what_it_would_delete(machine, tmp_path: Path):
    """One machine by three names in the inventory, of which the first alone is confirmed."""
    before = machine.state()
    confirmed = {"one": "another, one", "two": "", "three": "three3"}
    hosts = [f"{name} ansible_host={machine.name} mlflow_purge_confirm={names!r}" for name, names in confirmed.items()]
    connected = ["[all:vars]", "ansible_connection=community.docker.docker", "ansible_user=root"]
    (tmp_path / "hosts").write_text("\n".join(["[mlflow]", *hosts, *connected, ""]))
    command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts"), "playbooks/uninstall.yml"]
    done = subprocess.run([*command, "--extra-vars", "mlflow_purge=true"], cwd=ROOT, capture_output=True, text=True)
    words = " ".join((done.stdout + done.stderr).split()).replace("''", "'")
    assert done.returncode != 0
    for name in confirmed:
        assert re.search(
            rf"ok: \[{name}\] => msg: - /var/lib/mlflow \(the server's data, [^)]*in 1 experiment\)", words
        )
        refused = f"[{name}]: FAILED!" in words
        assert refused is (name != "one")
    assert words.count("run it again with -e mlflow_purge_confirm=one,two,three.") >= len(confirmed) - 1
    assert machine.state() == before
    assert machine.is_healthy()
