"""What the tests of this scenario do again and again: upgrade under load, go back, compare."""

import json

OLD, NEIGHBOUR, NEW = "3.16.1", "3.17.0", "3.17.2"
OLD_REVISION, REVISION = "b7e2c1a4d9f3", "dc11669786a5"
STORES = {
    "sqlite": {"mlflow_backend_store": "sqlite"},
    "postgresql": {"mlflow_backend_store": "postgresql", "postgresql_install": True, "mlflow_backend_switch": "keep"},
}


def version(machine):
    """What the release that runs is."""
    machine.run("mlflow-check")  # which compares the version that answers with the release's
    return machine.run("readlink /opt/mlflow/current").rpartition("/")[2].rpartition("-")[0]


def store(machine):
    return machine.client("read_store.py")


def traffic_runs(machine):
    """Runs that clients have created while something changed, by the server's own answer."""
    code = """
import json, urllib.request
total, token = 0, ""
while token is not None:
    body = json.dumps({"experiment_ids": ["0"], "filter": "attributes.run_name = 'traffic'", "max_results": 1000, "page_token": token})
    request = urllib.request.Request("http://127.0.0.1:5001/api/2.0/mlflow/runs/search", body.encode(), {"Content-Type": "application/json"})
    page = json.load(urllib.request.urlopen(request))
    total, token = total + len(page.get("runs", [])), page.get("next_page_token")
print(total)
"""
    return int(machine.host.check_output("python3 -c %s", code))


def under_traffic(machine, change):
    """Do it while clients write and read; every write that was acknowledged must be there, and no request refused."""
    before = traffic_runs(machine)
    with machine.traffic() as seen:
        result = change()
    assert seen.failures == []
    assert seen.created > 20
    assert traffic_runs(machine) - before == seen.created
    print(f"longest wait {seen.longest_seconds} s, {seen.answered} requests answered")
    return result


def rollback(machine, **settings):
    return machine.playbook("--extra-vars", json.dumps(settings), playbook="playbooks/rollback.yml")


def restore(machine, backup):
    return machine.playbook("--extra-vars", json.dumps({"mlflow_backup": backup}), playbook="playbooks/restore.yml")
