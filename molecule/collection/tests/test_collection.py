"""`ansible-galaxy collection build`, an installation of the archive elsewhere, and `ansible-playbook mlops.mlflow.site`."""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from fixtures import ROOT

PUBLIC = {
    *("CHANGELOG.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "SECURITY.md", "requirements.yml"),
    *("docs", "meta", "playbooks", "plugins", "roles"),
}
BROUGHT = ("files/key.json", "files/wheels/some.whl", "inventories/onprem/group_vars/all/vault.yml", ".env")
ROLES = ("mlflow", "postgresql", "pgbouncer", "haproxy", "monitoring")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree in which an operator has put files of their own."""
    tree = tmp_path_factory.mktemp("tree")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    for name in BROUGHT:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("an operator's own")
    subprocess.check_call(["ansible-galaxy", "collection", "build", "--output-path", str(tree / "build")], cwd=tree)
    (built,) = (tree / "build").iterdir()
    return built


class Elsewhere:
    """A folder in which nothing but the collection is installed; the others come with the package `ansible`."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        self.environment = {**kept, "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"), "ANSIBLE_NOCOLOR": "1"}
        self.run("ansible-galaxy", "collection", "install", str(archive), "--no-deps", "-p", "collections")

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        return done.stdout

    def playbook(self, name: str) -> int:
        """Run a playbook of the collection by its name; returns how many tasks changed something."""
        inventory = os.environ["MOLECULE_INVENTORY_FILE"]
        said = self.run("ansible-playbook", f"mlops.mlflow.{name}", "--inventory", inventory)
        return int(re.search(r"changed=(\d+)", said.rpartition("PLAY RECAP")[2])[1])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"), archive)


def test_archive_has_what_users_need_and_nothing_that_an_operator_brought(archive):
    assert archive.name == f"mlops-mlflow-{yaml.safe_load((ROOT / 'galaxy.yml').read_text())['version']}.tar.gz"
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert {name.split("/")[0] for name in names} == PUBLIC
    assert not [name for name in names if name in BROUGHT or "/tests" in name or "__pycache__" in name]


def test_site_by_its_name_takes_up_settings_and_changes_nothing_again(machine, elsewhere):
    assert elsewhere.playbook("site") > 0  # the image has the defaults, which listen on the loopback address
    assert machine.is_healthy()
    assert elsewhere.playbook("site") == 0


def test_other_playbooks_go_by_their_names_too(machine, elsewhere):
    elsewhere.playbook("verify")
    elsewhere.playbook("backup")
    assert len(machine.host.file("/var/backups/mlflow").listdir()) == 1


def test_every_setting_of_every_role_is_documented(elsewhere):
    said = elsewhere.run("ansible-doc", "--type", "role", *(f"mlops.mlflow.{role}" for role in ROLES))
    for role in ROLES:
        for setting in yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text()):
            assert re.search(rf"^\W*{setting}\b", said, re.MULTILINE)


def test_modules_are_documented(elsewhere):
    modules = [file.stem for file in (ROOT / "plugins" / "modules").glob("*.py")]
    said = elsewhere.run("ansible-doc", "--type", "module", *(f"mlops.mlflow.{module}" for module in modules))
    for module in modules:
        assert f"MODULE mlops.mlflow.{module} " in said
