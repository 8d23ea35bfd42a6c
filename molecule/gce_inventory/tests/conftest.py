"""A person at a control node, with inventories/gce as its README has them make it, and Google as create.yml has started it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fixtures import ROOT, Run
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2.service_account import Credentials
from google_cloud import CLOUD_PLATFORM, Google

PROJECT = "stand-in"
README = ROOT / "inventories" / "gce" / "README.md"
CRUD = ("list", "get", "create", "delete", "update")
ADMINISTRATOR = (
    *(f"compute.{kind}.{verb}" for kind in ("instances", "disks", "firewalls") for verb in (*CRUD, "setLabels")),
    *("compute.zoneOperations.get", "compute.globalOperations.get"),
    *(f"iam.serviceAccounts.{verb}" for verb in CRUD),
    *(f"storage.buckets.{verb}" for verb in (*CRUD, "getIamPolicy", "setIamPolicy")),
    *(f"storage.objects.{verb}" for verb in CRUD),
)


class ControlNode:
    """A clone's inventories/gce in a folder of its own, and what Ansible runs with there.

    Args:
        folder: empty; the inventory and the person's own files go there.
        google: that all of Google's names lead to.
    """

    def __init__(self, folder: Path, google: Google) -> None:
        self.google = google
        self.folder = folder
        self.inventory = folder / "inventories" / "gce"
        shutil.copytree(ROOT / "inventories" / "gce", self.inventory)
        prepare = re.search(r'^sed -i "s/my-project.*$', README.read_text(), re.MULTILINE)[0]
        subprocess.run(["sh", "-euc", prepare], cwd=folder, env={**os.environ, "PROJECT": PROJECT}, check=True)
        authority = folder / "ca.pem"
        authority.write_text(google.ca())
        ours = ("ANSIBLE_", "GCP_", "GOOGLE_", "MOLECULE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        names = {"https_proxy": google.proxy(), "no_proxy": ""}
        self.environment = {
            **{name: value for name, value in kept.items() if name.lower() not in ("http_proxy", "all_proxy")},
            **names,
            **{name.upper(): value for name, value in names.items()},
            "REQUESTS_CA_BUNDLE": str(authority),
            "CLOUDSDK_CONFIG": str(folder / "gcloud"),  # nobody has logged in there
            "NO_GCE_CHECK": "true",  # this is no virtual machine of Google's
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "400",
        }

    def log_in(self, name: str, *permissions: str) -> dict[str, str]:
        """Have Google's libraries find a service account's key, which is returned."""
        key = self.google.service_account(name, permissions, PROJECT)
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(key))
        self.environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
        return key

    def run(self, *command: str, **environment: str) -> Run:
        done = subprocess.run(
            [command[0], "--inventory", str(self.inventory), *command[1:]],
            cwd=ROOT,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Run(done.returncode, done.stdout)

    def found(self) -> dict:
        """What `ansible-inventory --list` says: groups with their hosts, and ``_meta``."""
        done = self.run("ansible-inventory", "--list")
        assert done.status == 0, done.output
        return json.loads(done.output)

    def settings(self, *names: str, machines: str = "gce", **given: str) -> dict[str, list]:
        """Settings of each machine as a task sees them, in the order of the names."""
        shown = ", ".join(f"{name} | default(None)" for name in names)
        callback = {"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        message = ("--module-name=ansible.builtin.debug", "--args", json.dumps({"msg": "{{ [" + shown + "] }}"}))
        done = self.run("ansible", machines, *message, "--extra-vars", json.dumps(given), **callback)
        assert done.status == 0, done.output
        (task,) = json.loads(done.output)["plays"][0]["tasks"]
        return {host: result["msg"] for host, result in task["hosts"].items()}

    def playbook(self, name: str, *arguments: str, **settings: object) -> Run:
        return self.run("ansible-playbook", f"playbooks/{name}.yml", "--extra-vars", json.dumps(settings), *arguments)

    def succeeds(self, name: str, *arguments: str, **settings: object) -> Run:
        done = self.playbook(name, *arguments, **settings)
        assert done.status == 0, done.output[-6000:]
        return done

    def refuses(self, name: str, **settings: object) -> str:
        """The one sentence with which a playbook fails."""
        done = self.playbook(name, **settings)
        assert done.status != 0, done.output
        assert done.output.count("[ERROR]") == 1, done.output
        said = re.search(r"\[ERROR\]: (.*?)(?: Origin: | Task failed\. )", done.said)[1]
        return re.sub(r"^.*?The lookup plugin '\S+' failed: |^Task failed: (Action failed: )?", "", said)

    def upload(self, key: dict[str, str], bucket: str, name: str, content: bytes) -> None:
        """Put an object into a bucket, as whoever has the key."""
        trust = self.environment["REQUESTS_CA_BUNDLE"]
        by = {"proxies": {"https": self.google.proxy()}, "verify": trust}
        request = Request()
        for session in (request.session, authorized := AuthorizedSession(credentials(key), auth_request=request)):
            session.trust_env = False
            session.proxies, session.verify = by["proxies"], by["verify"]
        address = f"https://storage.googleapis.com/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
        authorized.post(address, data=content, timeout=30).raise_for_status()


def credentials(key: dict[str, str]) -> Credentials:
    return Credentials.from_service_account_info(key, scopes=[CLOUD_PLATFORM])


@pytest.fixture(scope="module")
def google() -> Google:
    """Google, in which there is no machine yet."""
    google = Google("mlflow-gce")
    google.forget_machines()
    return google


@pytest.fixture
def node(tmp_path: Path, google: Google) -> ControlNode:
    """Logged in as somebody who may look for machines, and nothing else."""
    node = ControlNode(tmp_path, google)
    node.log_in("reader", "compute.instances.list")
    return node
