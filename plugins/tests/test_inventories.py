"""The inventories that people start from: nobody gets in without TLS and an account."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["gce", "onprem"])
def test_machine_has_accounts_and_a_front(name: str):
    inventory = [
        str(Path(sys.executable).with_name("ansible-inventory")),
        "--inventory",
        f"inventories/{name}",
        "--list",
    ]
    done = subprocess.run(inventory, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["mlflow"]["hosts"] == said["haproxy"]["hosts"] != []
    for host in said["mlflow"]["hosts"]:
        settings = said["_meta"]["hostvars"][host]
        assert settings["mlflow_auth_enabled"] is True
        assert settings["mlflow_host"] == "127.0.0.1"
        assert settings.get("mlflow_allow_anonymous", False) is False
        assert settings["haproxy_names"]
