"""What Prometheus sees of a server that works."""

import json
import re
import subprocess
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest
from fixtures import ROOT, wait_until

DASHBOARD = json.loads((ROOT / "files" / "grafana-mlflow.json").read_text())
QUERIES = {
    f"{panel['title']} {each['refId']}": each["expr"] for panel in DASHBOARD["panels"] for each in panel["targets"]
}
EMPTY_IS_GOOD = {"Server errors A"}


@pytest.fixture(autouse=True)
def used(machine):
    """A server that clients have used, with a backup."""
    if not machine.host.file("/run/used-by-the-tests").exists:
        use(machine)
        machine.run("touch /run/used-by-the-tests")


def use(machine):
    machine.client("log_everything.py")
    machine.run("systemctl start mlflow-backup.service")
    machine.run("systemctl start mlflow-check.service")


def test_every_target_is_up(prometheus):
    def all_up():
        targets = prometheus.ask("targets")["activeTargets"]
        return {each["labels"]["job"] for each in targets if each["health"] == "up"} if targets else set()

    wait_until(lambda: all_up() == {"prometheus", "mlflow", "node", "postgres"}, 240, "all targets are up")


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_every_query_of_the_dashboard_has_an_answer(prometheus, query):
    if query in {QUERIES[name] for name in EMPTY_IS_GOOD}:
        prometheus.query(query)
    else:
        wait_until(lambda: prometheus.query(query), 240, "Prometheus has seen enough")


def test_every_rule_is_evaluated_and_none_is_needed(prometheus):
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 13
    wait_until(
        lambda: "unknown" not in {r["health"] for g in prometheus.ask("rules")["groups"] for r in g["rules"]},
        240,
        "all ran",
    )
    assert {rule["health"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]} == {"ok"}
    assert prometheus.firing() == set()


def test_rules_notice_what_they_should_and_nothing_else(machine):
    source = Path(__file__).with_name("rules.test.yml")
    subprocess.run(["docker", "cp", str(source), f"{machine.name}:/etc/prometheus/rules.test.yml"], check=True)
    machine.run("cd /etc/prometheus && promtool test rules rules.test.yml")


def test_arguments_that_do_not_work_are_taken_back(machine, prometheus):
    before = machine.run("sha256sum /etc/default/prometheus*")
    said = machine.refuses(monitoring_prometheus_listen="192.0.2.1:9090")
    assert "prometheus.service does not listen on 192.0.2.1:9090" in said
    assert machine.run("sha256sum /etc/default/prometheus*") == before
    wait_until(lambda: machine.listens_on(9090), 60, "Prometheus listens where it did")
    wait_until(lambda: prometheus.query('up{job="mlflow"} == 1'), 60, "it scrapes")


def test_wrong_settings_are_refused(machine):
    before = machine.run("cat /etc/prometheus/*.yml /etc/default/prometheus* | sha256sum")
    refused = [
        ({"monitoring_parts": ["grafana"]}, "monitoring_parts has grafana; take prometheus, node or postgres"),
        ({"monitoring_node_listen": "9100"}, "monitoring_node_listen is 9100; it is an address and a port"),
        ({"monitoring_mlflow_ca_file": "/no/such.pem"}, "names /no/such.pem, which is no file on the machine"),
    ]
    machine.refuses_each(refused)
    assert machine.run("cat /etc/prometheus/*.yml /etc/default/prometheus* | sha256sum") == before


def test_nobody_elsewhere_can_reach_prometheus_and_the_exporters(machine):
    listening = machine.run("cat /proc/net/tcp /proc/net/tcp6")
    for port in (9090, 9100, 9187):
        addresses = re.findall(rf"\d+: ([0-9A-F]+):{port:04X} \w+:0000 0A", listening)
        assert addresses == ["0100007F"]


def test_metrics_count_all_workers_and_have_no_ids(machine, prometheus):
    def text():
        return machine.run(
            "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:5001/metrics').read().decode())\""
        )

    routes = set(re.findall(r'route="([^"]*)"', text()))
    assert {"runs", "experiments", "artifacts", "health"} <= routes
    before = float(
        re.search(r'requests_total\{method="GET",route="other",status="404"\} (\S+)', ask_nothing(machine, text))[1]
    )
    for number in range(40):
        machine_get(machine, f"/no/such/{number}")
    after = float(re.search(r'requests_total\{method="GET",route="other",status="404"\} (\S+)', text())[1])
    assert after - before == 40
    assert not re.search(r"no/such", text())
    assert f"mlflow_workers {len(machine.workers())}.0" in text()


def ask_nothing(machine, text):
    """The metrics, once the route has been asked for at least once."""
    machine_get(machine, "/no/such")
    return text()


def machine_get(machine, path, headers=None):
    """Status of the answer to a request from the control node."""
    request = urllib.request.Request(machine.url + path, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_log_names_the_user_and_holds_no_secret(machine):
    token = b64encode(b"alice:correct horse").decode()
    machine_get(machine, "/version?token=battery-staple", {"Authorization": f"Basic {token}"})
    lines = [
        json.loads(line)
        for line in machine.run('journalctl -u mlflow -o cat | grep \'"path": "/version"\'').splitlines()
    ]
    assert lines[-1]["user"] == "alice"
    journal = machine.run("journalctl --no-pager -o verbose")
    for secret in ("correct horse", token, "battery-staple"):
        assert secret not in journal


def test_result_of_the_check_is_there_for_the_node_exporter(machine, prometheus):
    text = machine.run("cat /var/lib/prometheus/node-exporter/mlflow.prom")
    steps = dict(re.findall(r'mlflow_check_step_ok\{step="(\w+)"\} (\d)', text))
    assert steps == dict.fromkeys(("workers", "health", "version", "database", "artifacts"), "1")
    wait_until(lambda: prometheus.query("mlflow_backup_size_bytes > 1000"), 240, "the backup is seen")
    assert prometheus.value("mlflow_certificate_expiry_timestamp_seconds") > 0


def test_journal_has_its_limit(machine):
    assert "SystemMaxUse=1024M" in machine.run("systemd-analyze cat-config systemd/journald.conf")
