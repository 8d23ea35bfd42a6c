"""The service's account attacks, and root goes on with its work.

After each test nothing outside the service's folders has changed, no secret of root's has come to the service, and root
has run nothing that the service had written: see `scene` and `attack` in conftest.py.
"""

import json
import secrets

import pytest
from scene import CREATED, OUT_OF_TIME, PRECIOUS, SECRET

HOME = "/var/lib/mlflow"
RUNTIME = "/run/mlflow"
PORT = 5999  # where a server of the attacker's listens
TOKENS = ["fifo", "huge", "bytes"]
ANSWERS = ["text", "latin", "short", "garbage", "drip"]
ODD_DATABASES = [("fifo", "database=fifo"), ("endless", "database=endless"), ("taken over", "taken-over")]
RESTORE = "playbooks/restore.yml"
UNINSTALL = "playbooks/uninstall.yml"
COPIED = f"{HOME}/copied"  # a backup that an operator has put into the service's home
PREVIOUS = "/etc/mlflow/previous.env"


# Root runs nothing of the service's


def test_restart_runs_nothing_that_the_service_wrote(machine, attack, as_root):
    with attack(f"modules={HOME}"):
        done = as_root("systemctl restart mlflow.service")
    assert done.status == 0
    assert machine.is_healthy()


@pytest.mark.parametrize("folder", [HOME, "/tmp/of-the-service"])
def test_check_runs_nothing_from_the_folder_that_it_is_typed_in(attack, as_root, folder):
    with attack(f"modules={folder}"):
        done = as_root(f"cd {folder} && mlflow-check")
    assert done.status == 0, done.output


def test_admin_command_hands_no_terminal_to_the_service(machine, terminal):
    said = machine.host.check_output("python3 -I -c %s mlflow mlflow-admin db --help", terminal)
    found = json.loads(said.splitlines()[-1])
    assert (found["status"], "Usage: mlflow-admin db" in found["said"]) == (0, True), found
    assert found["seen"] > 0, "no process of the service's account was seen"
    assert found["reached"] == []


# Root changes nothing behind a link


@pytest.fixture
def ask_own_server(as_root):
    """A function that runs mlflow-check as it is installed, but for the address: that of a server of the attacker's."""
    script = f'sed "s#http://[^ ]*#http://127.0.0.1:{PORT}#" /usr/local/sbin/mlflow-check | sh -s -- --timeout 2'
    return lambda: as_root(script, 30)


@pytest.fixture
def flip():
    """A setting that a run has to take up, another one each time."""
    return {"mlflow_environment": {"BOUNDARY": secrets.token_hex(4)}}


def test_provisioning_gives_nothing_away_behind_a_link(machine, attack, run_playbook, flip):
    with attack(f"artifacts={PRECIOUS}/folder"):
        run = run_playbook(**flip)
        assert machine.run(f"stat -c '%U %G %a' {PRECIOUS}/folder") == "root root 700"
    run.assert_in_a_sentence(f"{HOME}/artifacts")
    assert machine.is_healthy()


def test_folder_that_becomes_a_link_while_it_is_looked_at_gives_nothing_away(machine, attack, ask_module):
    """The module that provisioning asks looks five hundred times."""
    entry = {"path": f"{HOME}/artifacts", "owner": "mlflow", "group": "mlflow", "mode": "0750"}
    with attack(f"exchange={PRECIOUS}/folder"):
        run = ask_module("mlops.mlflow.managed_files", rollback_dir="/etc/mlflow/rollback", entries=[entry] * 500)
        assert machine.run(f"stat -c '%U %G %a' {PRECIOUS}/folder") == "root root 700"
    run.assert_in_a_sentence(f"{HOME}/artifacts")


def test_folder_below_a_link_is_not_made(machine, attack, ask_module):
    """As where mlflow_artifacts_location is below a folder of the service."""
    entry = {"path": f"{HOME}/link/folder", "owner": "mlflow", "group": "mlflow", "mode": "0750"}
    with attack(f"link=link,{PRECIOUS}/folder"):
        run = ask_module("mlops.mlflow.managed_files", rollback_dir="/etc/mlflow/rollback", entries=[entry])
        assert machine.run(f"ls {PRECIOUS}/folder") == "file"
    run.assert_in_a_sentence(f"{HOME}/link")


def test_change_touches_and_tells_nothing_by_the_runtime_folder(machine, attack, run_playbook, flip):
    """The hold, the key and the sockets for a trial are links and listeners of the service's."""
    with attack("runtime=links"):
        run = run_playbook(**flip)
    assert not machine.host.file(CREATED).exists
    run.assert_in_a_sentence(RUNTIME)
    assert machine.is_healthy()


def test_restart_is_not_held_up_by_a_folder_in_place_of_the_hold(machine, attack, as_root, journal):
    with attack("runtime=folder"):
        done = as_root("systemctl restart mlflow.service", 45)
    said = journal("mlflow.service")
    as_root("systemctl restart mlflow.service")
    assert machine.is_healthy()
    assert "Traceback" not in said, said[-3000:]
    assert done.status == 0


def test_preflight_writes_credentials_to_no_file_that_the_service_chose(machine, attack):
    """As provisioning asks it, with a hundred credential files."""
    wanted = {
        "environment": {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{HOME}/mlflow.db",
            "MLFLOW_ARTIFACTS_DESTINATION": f"{HOME}/artifacts",
        },
        "user": "mlflow",
        "group": "mlflow",
        "home": HOME,
        "files": {f"/etc/mlflow/{number}": {"secret": "a credential"} for number in range(100)},
    }
    command = "echo %s | timeout 60 /opt/mlflow/current/bin/python -I -m mlflow_service.preflight"
    with attack(f"preflight={PRECIOUS}/file"):
        done = machine.host.run(command, json.dumps(wanted))
        assert machine.run(f"stat -c '%U %G %a' {PRECIOUS}/file; cat {PRECIOUS}/file") == "root root 600\nkept"
    assert done.rc not in OUT_OF_TIME
    assert "Traceback" not in done.stderr


# Root tells the service nothing


def test_check_sends_no_file_of_roots_as_a_password(attack, ask_own_server):
    with attack("token=link", f"listener={PORT},record"):
        done = ask_own_server()
    done.assert_in_a_sentence()


@pytest.mark.parametrize("kind", TOKENS)
def test_check_needs_no_key_that_is_odd(machine, attack, as_root, kind):
    """Where accounts are off, the server wants none."""
    with attack(f"token={kind}"):
        done = as_root("prlimit --as=4000000000 mlflow-check", 20)
    done.assert_in_a_sentence()
    assert done.status == 0, done.output


@pytest.mark.parametrize("kind", ANSWERS)
def test_check_says_in_a_sentence_what_is_odd_about_an_answer(attack, ask_own_server, kind):
    with attack(f"listener={PORT},{kind}"):
        done = ask_own_server()
    done.assert_in_a_sentence()
    assert done.status == 1
    assert json.loads(done.output)["ok"] is False


# Root kills nobody whom the service names


def assert_checked(machine, done, said):
    assert done.status == 0, said
    assert "Traceback" not in said, said[-3000:]
    assert machine.run("systemctl show --property Result --value mlflow-check.service") == "success"


def test_check_kills_nobody_who_is_no_worker(machine, attack, as_root, journal, victims):
    workers = machine.workers()
    planted = ["pulse-link=/run/victim-listens.sock", f"pulse-full={victims['victim-sleeps']}", "pulse-full=1"]
    with attack(*planted):
        done = as_root("systemctl start mlflow-check.service", 120)
        alive = {name: int(machine.run(f"systemctl show --property MainPID --value {name}")) for name in victims}
    assert alive == victims
    assert machine.workers() == workers
    assert_checked(machine, done, journal("mlflow-check.service"))


def test_check_survives_whatever_workers_are_called_and_say(machine, attack, as_root, journal):
    with attack("pulse-odd", "pulse-full=abc"):
        done = as_root("systemctl start mlflow-check.service", 120)
    assert_checked(machine, done, journal("mlflow-check.service"))
    assert machine.is_healthy()


def test_check_ends_though_a_workers_line_does_not(machine, attack, as_root, journal):
    with attack("pulse-drip"):
        done = as_root("systemctl start mlflow-check.service", 45)
        as_root("systemctl kill --signal=KILL mlflow-check.service")
    assert_checked(machine, done, journal("mlflow-check.service"))


@pytest.mark.parametrize("kind", ["fifo", "bytes"])
def test_deep_check_works_with_any_key(machine, attack, as_root, journal, kind):
    with attack(f"token={kind}"):
        done = as_root("systemctl start mlflow-check.service", 45)
        as_root("systemctl kill --signal=KILL mlflow-check.service")
    assert_checked(machine, done, journal("mlflow-check.service"))


# Root waits for nothing that the service has left


@pytest.mark.parametrize(("planted"), [pytest.param(planted, id=name) for name, planted in ODD_DATABASES])
def test_state_of_the_machine_is_read_whatever_the_service_has_left(machine, attack, run_playbook, planted):
    if planted == "taken-over":
        machine.run(f"cp -p /etc/mlflow/mlflow.env {PREVIOUS}")
    try:
        with attack(planted):
            run = run_playbook("--check", "--tags", "account", seconds=90)
    finally:
        machine.run(f"rm -f {PREVIOUS}")
    run.assert_in_a_sentence(HOME)


def test_backup_ends_whatever_the_home_holds(machine, attack, as_root, journal):
    with attack("databases=files"):
        done = as_root("systemctl start mlflow-backup.service", 30)
        as_root("systemctl kill --signal=KILL mlflow-backup.service")
    assert "Traceback" not in journal("mlflow-backup.service")
    assert done.status not in OUT_OF_TIME, "the backup did not end"
    assert as_root("systemctl start mlflow-backup.service").status == 0


def test_backup_does_not_wait_for_a_copy_that_was_exchanged(attack, as_root, journal):
    with attack("copy"):
        done = as_root("systemctl start mlflow-backup.service", 30)
        as_root("systemctl kill --signal=KILL mlflow-backup.service")
    assert "Traceback" not in journal("mlflow-backup.service")
    assert done.status not in OUT_OF_TIME, "the backup did not end"


def test_every_backup_can_be_restored_whatever_the_databases_are_called(
    machine, attack, as_root, run_playbook, journal
):
    assert as_root("systemctl start mlflow-backup.service").status == 0
    with attack("databases=names"):
        as_root("systemctl start mlflow-backup.service")
    assert "Traceback" not in journal("mlflow-backup.service")
    restored = run_playbook(playbook=RESTORE, mlflow_backup="latest")
    assert restored.status == 0, restored.output[-3000:]
    assert machine.is_healthy()


def test_restore_brings_the_service_nothing_but_the_backup(machine, attack, as_root, run_playbook):
    """An operator has left a backup in the service's home, which exchanges a file in it after that was checked."""
    with attack("databases=plain"):
        assert as_root("systemctl start mlflow-backup.service").status == 0
    machine.run(
        f"rm -rf {COPIED} && cp -r $(ls -d /var/backups/mlflow/2* | tail -1) {COPIED} && chown -R mlflow: {COPIED}"
    )
    with attack(f"swap-member={COPIED}"):
        run = run_playbook(playbook=RESTORE, mlflow_backup=COPIED)
    machine.run(f"rm -r {COPIED}")
    run.assert_in_a_sentence(HOME)
    assert machine.is_healthy()


# Root deletes what is the service's, and nothing else


def test_what_a_purge_would_delete_is_told_though_it_cannot_be_counted(attack, run_playbook):
    with attack("database=endless", inside=True):
        run = run_playbook(playbook=UNINSTALL, mlflow_purge=True, seconds=90)
    assert run.status != 0
    run.assert_in_a_sentence("mlflow_purge_confirm=mlflow-boundary")


def test_purge_deletes_the_service_s_folders_and_nothing_else(machine, attack, scene, run_playbook):
    scene += ["mlflow", r"^/etc/(passwd|shadow|group|gshadow|subuid|subgid)-? "]
    with attack(f"litter={PRECIOUS}"):
        pass
    confirmed = {"mlflow_purge": True, "mlflow_purge_confirm": "mlflow-boundary"}
    run = run_playbook(playbook=UNINSTALL, **confirmed)
    run.assert_in_a_sentence(HOME)
    assert run.status == 0, run.output[-3000:]
    assert machine.run(f"cat {SECRET} {PRECIOUS}/file {PRECIOUS}/folder/file | wc -l") == "3"
    assert not machine.host.file(HOME).exists
