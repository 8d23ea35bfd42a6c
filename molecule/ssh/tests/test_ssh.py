"""What somebody with machines of his own, SSH and sudo gets from inventories/onprem."""

import json
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from conftest import FOLDER, ask, certificate, url
from fixtures import ROOT, Machine, wait_until
from secrecy import watched_command_lines

EXAMPLE = ROOT / "inventories" / "onprem" / "group_vars" / "all" / "vault.yml.example"
PASSWORD_FILE = Path(__file__).resolve().parents[1] / "vault-password"
SETTINGS = PASSWORD_FILE.parent / "host_vars" / "mlflow-ssh-trixie" / "settings.yml"


def vault() -> dict[str, str]:
    shown = subprocess.run(
        ["ansible-vault", "view", "--vault-password-file", str(PASSWORD_FILE), str(EXAMPLE)],
        capture_output=True,
        text=True,
        check=True,
    )
    return yaml.safe_load(shown.stdout)


def log_in(monkeypatch: pytest.MonkeyPatch, machine: Machine, trusted: Path, user: str, password: str) -> None:
    trusted.write_text(certificate(machine))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trusted))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def test_client_logs_a_run_by_tls(machine, monkeypatch, tmp_path):
    admin = machine.run("cat /etc/mlflow/secrets/admin-password").strip()
    log_in(monkeypatch, machine, tmp_path / "ca.pem", "admin", admin)
    assert machine.client("log_everything.py", url=url(machine))["run_id"]


def test_each_machine_serves_itself_alone(machine):
    servers = machine.run("grep -oP '^ +server \\K.*(?= check)' /etc/haproxy/haproxy.cfg")
    assert servers.strip() == f"{machine.name} 127.0.0.1:5001"
    assert machine.is_healthy()


def test_passwords_of_the_vault_count(full, monkeypatch, tmp_path):
    assert full.run("cat /etc/mlflow/secrets/admin-password").strip() == vault()["vault_admin_password"]
    log_in(monkeypatch, full, tmp_path / "ca.pem", "alice", vault()["vault_alice_password"])
    assert full.client("read_store.py", url=url(full))


@pytest.mark.parametrize("what", ["/simple/uv/", "/simple/mlflow/", "http://.*/dists/trixie/InRelease"])
def test_packages_come_by_the_mirror_and_the_proxy(full, what):
    full.run(f"journalctl --unit=network --output=cat --no-pager | grep 'GET {what} HTTP/1.1\" 200'")


def test_everything_on_debian_13_is_up(full):
    assert full.run("haproxy -v").startswith("HAProxy version 3.")
    query = "http://127.0.0.1:9090/api/v1/targets?state=active"
    read = f"import urllib.request; print(urllib.request.urlopen('{query}').read().decode())"

    def health() -> dict[str, str]:
        said = json.loads(full.host.check_output("python3 -c %s", read))
        return {target["labels"]["job"]: target["health"] for target in said["data"]["activeTargets"]}

    wait_until(lambda: health() == dict.fromkeys(["prometheus", "mlflow", "node", "postgres"], "up"), 60, "all up")
    assert full.run("systemctl list-units --state=failed --no-legend") == ""


def test_front_of_debian_13_takes_a_change_up_without_refusing_a_client(full):
    stop, failures, answers = threading.Event(), [], []

    def clients() -> None:
        while not stop.wait(0.5):
            try:
                answers.append(ask(full, "/health"))
            except OSError as error:
                failures.append(str(error))

    thread = threading.Thread(target=clients)
    thread.start()
    try:
        done = full.playbook("--extra-vars", "haproxy_max_body_mb=33", playbook="playbooks/front.yml")
        assert done.status == 0, done.output[-4000:]
        assert done.changed > 0
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert set(answers) == {"OK"}


def test_no_command_line_has_a_password(full):
    secret = yaml.safe_load(SETTINGS.read_text())["network_login"].partition(":")[2]
    words = [vault()["ansible_become_password"], vault()["vault_admin_password"], secret, "in%40the%2Fnetwork"]
    elsewhere = "http://builder:in%40the%2Fnetwork@127.0.0.1:9/simple"
    settings = {
        "mlflow_pip_index": elsewhere,
        "mlflow_extra_packages": ["colorama==0.4.6"],
        "mlflow_install_environment": {"UV_CACHE_DIR": "/run/nothing"},
    }
    (FOLDER / "settings.json").write_text(json.dumps(settings))
    with watched_command_lines(full.name, words, control_node=True) as seen:
        done = full.playbook("-vvv", "--diff", "--extra-vars", f"@{FOLDER}/settings.json")
    assert done.status != 0
    assert "the package index can't be reached; set mlflow_pip_index" in done.said
    assert seen == []
    assert [word for word in words if word in done.output] == []
    found = full.host.run("journalctl --no-pager --output=export | grep -cF -e %s -e %s -e %s -e %s", *words)
    assert found.stdout.strip() == "0"


def test_published_passwords_and_a_disk_that_is_not_mounted_are_refused(full):
    """The passwords where it is no test."""
    before = full.state()
    published = (
        "ansible_become_password and mlflow_auth_admin_password and mlflow_users have a password of the example in "
        "inventories/onprem, which everybody can read; put one of your own in its place"
    )
    disks = {"mlflow_backup_dir": "/srv/other", "mlflow_required_mounts": ["/srv/mlflow", "/srv/other"]}
    full.refuses_each(
        [
            ({"mlflow_test_machine": False}, published),
            (disks, "mlflow_required_mounts has /srv/other, where nothing is mounted; mount the disk"),
        ]
    )
    assert full.state() == before


def test_server_does_not_start_without_its_disk(full):
    full.run(
        "systemctl stop mlflow.socket mlflow.service && mkdir -p /srv/aside && mount --move /srv/mlflow /srv/aside"
    )
    broken = "[Mount]\\nWhat=/srv/no-disk\\nWhere=/srv/mlflow\\nType=ext4\\n"
    full.run(f"printf '{broken}' > /etc/systemd/system/srv-mlflow.mount && systemctl daemon-reload")
    try:
        started = full.host.run("systemctl start mlflow.service")
        full.run("systemctl stop mlflow.socket mlflow.service")
        assert "dependency job for mlflow.service failed" in started.stderr
        assert full.run("ls -A /srv/mlflow") == ""
    finally:
        full.run("rm /etc/systemd/system/srv-mlflow.mount && mount --move /srv/aside /srv/mlflow && rmdir /srv/aside")
        full.run("systemctl daemon-reload && systemctl reset-failed && systemctl start mlflow.socket mlflow.service")
    assert full.is_healthy()


def test_backup_goes_to_its_disk_and_comes_back(full, monkeypatch, tmp_path):
    log_in(monkeypatch, full, tmp_path / "ca.pem", "admin", vault()["vault_admin_password"])
    stored = full.client("read_store.py", url=url(full))
    made = full.playbook(playbook="playbooks/backup.yml")
    assert made.status == 0, made.output[-4000:]
    assert " in /srv/mlflow-backups" in made.said
    full.run("mlflow-admin experiments create --experiment-name later")
    assert full.client("read_store.py", url=url(full)) != stored
    back = full.playbook(
        "--extra-vars", "mlflow_backup=latest mlflow_restore_discards=true", playbook="playbooks/restore.yml"
    )
    assert back.status == 0, back.output[-4000:]
    assert full.client("read_store.py", url=url(full)) == stored


@pytest.mark.parametrize(
    ("known", "says"),
    [("changed", "REMOTE HOST IDENTIFICATION HAS CHANGED"), ("unknown", "Host key verification failed")],
)
def test_machine_with_another_key_is_not_talked_to(full: Machine, known: str, says: str):
    line = "" if known == "unknown" else f"{full.name} {' '.join((FOLDER / 'key.pub').read_text().split()[:2])}\n"
    (FOLDER / "other_hosts").write_text(line)
    arguments = f"-o ControlPath=none -o UserKnownHostsFile={FOLDER}/other_hosts -F {FOLDER}/config"
    done = full.playbook(
        "--extra-vars", json.dumps({"ansible_ssh_common_args": arguments}), playbook="playbooks/verify.yml"
    )
    assert done.status != 0
    assert says in done.said
