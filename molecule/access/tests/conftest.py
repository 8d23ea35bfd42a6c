"""Who calls the server, and what is there that is none of their business."""

import json
import secrets
import subprocess

import pytest
import testinfra.host
from callers import Caller, Others, Route, admin_password
from fixtures import ROOT, Machine

CLIENTS = ROOT / "molecule" / "access" / "clients"
LIST_ROUTES = (ROOT / "molecule" / "access" / "on_machine" / "list_routes.py").read_text()


@pytest.fixture(scope="module")
def machine(host: testinfra.host.Host) -> Machine:
    return Machine(host.backend.host)


@pytest.fixture
def admin(machine: Machine) -> Caller:
    return Caller(machine.url, "admin", admin_password(machine))


@pytest.fixture
def alice(machine: Machine) -> Caller:
    return Caller(machine.url, "alice", "the password of alice")


@pytest.fixture
def mallory(machine: Machine) -> Caller:
    """Somebody with an account and no permission on anything."""
    return Caller(machine.url, "mallory", "the password of mallory")


@pytest.fixture
def stranger(machine: Machine) -> Caller:
    return Caller(machine.url)


@pytest.fixture(scope="module")
def routes(machine: Machine) -> list[Route]:
    """Every route of the installed release, read from its own tables on the machine."""
    command = ["docker", "exec", "--interactive", machine.name, "/opt/mlflow/current/bin/python", "-"]
    done = subprocess.run(command, input=LIST_ROUTES, capture_output=True, text=True, check=True)
    return [tuple(route) for route in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def others(machine: Machine) -> Others:
    admin = Caller(machine.url, "admin", admin_password(machine))
    word, content = secrets.token_hex(4), f"content{secrets.token_hex(8)}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        environment.setenv("MLFLOW_TRACKING_PASSWORD", admin_password(machine))
        made = machine.client(str(CLIENTS / "fill.py"), word, content)
    secret = admin.post(
        "/api/3.0/mlflow/gateway/secrets/create",
        secret_name=f"secret-{word}",
        secret_value={"api_key": content},
        provider="openai",
        created_by=content,
    )
    role = admin.post("/api/3.0/mlflow/roles/create", workspace="default", name=f"role-{word}", description=content)
    number = role.json["role"]["id"]
    grant = {"role_id": number, "resource_type": "experiment", "resource_pattern": "*", "permission": "READ"}
    granted = admin.post("/api/3.0/mlflow/roles/permissions/add", **grant)
    experiment, run, trace = made["experiment_id"], made["run_id"], made["trace_id"]
    graphql = f'{{ mlflowGetExperiment(input: {{experimentId: "{experiment}"}}) {{ experiment {{ name tags {{ value }} }} }} }}'
    names = {
        **made,
        "experiment_ids": [experiment],
        "run_uuid": run,
        "run_ids": [run],
        "request_id": trace,
        "trace_ids": [trace],
        "request_ids": [trace],
        "dataset_ids": [made["dataset_id"]],
        "artifact_path": f"{experiment}/{run}/artifacts/notes.txt",
        "path": "notes.txt",
        "version": "1",
        "metric_key": "metric",
        "key": "tag",
        "tag_key": "tag",
        "value": "changed",
        "description": "changed",
        "new_name": "changed",
        "max_results": 100,
        "username": "admin",
        "password": "chosen by mallory",
        "is_admin": True,
        "workspace": "default",
        "workspace_name": "default",
        "role_id": number,
        "role_permission_id": granted.json["role_permission"]["id"],
        "resource_type": "experiment",
        "resource_id": experiment,
        "permission": "MANAGE",
        "secret_id": secret.json["secret"]["secret_id"],
        "query": graphql,
    }
    return Others(names, content)
