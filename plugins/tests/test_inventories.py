"""The inventories that people start from: nobody gets in without TLS and an account."""

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_rules import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
ONPREM = ROOT / "inventories" / "onprem"


def test_machine_has_accounts_and_a_front():
    """Of inventories/onprem; the scenario gce_inventory asks the same of inventories/gce, whose machines Google has to name."""
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    inventory = [program, "--inventory", "inventories/onprem", "--list"]
    done = subprocess.run(inventory, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["mlflow"]["hosts"] == said["haproxy"]["hosts"] != []
    for host in said["mlflow"]["hosts"]:
        settings = said["_meta"]["hostvars"][host]
        assert settings["mlflow_auth_enabled"] is True
        assert settings["mlflow_host"] == "127.0.0.1"
        assert settings.get("mlflow_allow_anonymous", False) is False
        assert settings["haproxy_names"]


def test_example_of_a_vault_opens_with_the_published_password_and_has_only_passwords_that_are_refused():
    published = re.search(r"encrypted with the password `(.+?)`", (ONPREM / "README.md").read_text())[1]
    example = (ONPREM / "group_vars" / "all" / "vault.yml.example").read_bytes()
    secrets = yaml.safe_load(VaultLib([("default", VaultSecret(published.encode()))]).decrypt(example))
    assert len(secrets) >= 3
    assert [name for name, secret in secrets.items() if PUBLISHED not in secret] == []
    assert (ROOT / "molecule" / "ssh" / "vault-password").read_text().strip() == published
