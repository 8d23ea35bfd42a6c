"""Who a playbook is for, by the lookup mlflow_hosts: patterns as ever, and a failure where there is nobody."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = """
mlflow:
  hosts: {tracker-1: , tracker-2: }
haproxy:
  hosts: {front: }
"""
FRONT_ONLY = """
mlflow:
  hosts: {}
haproxy:
  hosts: {front: }
"""


def listed(tmp_path: Path, content: str, playbook: str, *arguments: str) -> list[str]:
    """The hosts of a playbook's first play that has any."""
    said = run(tmp_path, content, playbook, *arguments)
    assert said.returncode == 0, said.stdout + said.stderr
    plays = re.findall(r"hosts \(([1-9])\):\n((?: {6}\S+\n)+)", said.stdout)
    return sorted(plays[0][1].split())


def run(tmp_path: Path, content: str, playbook: str, *arguments: str) -> subprocess.CompletedProcess:
    (tmp_path / "hosts.yml").write_text(content)
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [
        program,
        "--list-hosts",
        f"playbooks/{playbook}.yml",
        "--inventory",
        str(tmp_path / "hosts.yml"),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_front_alone_without_a_front_says_so_and_the_whole_goes_without(tmp_path):
    without = "mlflow:\n  hosts: {tracker-1: }\n"
    assert listed(tmp_path, without, "front") == ["localhost"]
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "playbooks/front.yml", "--inventory", str(tmp_path / "hosts.yml")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode != 0
    assert "No machine of the inventory is in the group haproxy" in said.stdout + said.stderr
    assert listed(tmp_path, INVENTORY, "front") == ["front"]
    assert run(tmp_path, without, "site").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ([], ["tracker-1", "tracker-2"]),
        (["--limit", "tracker-2"], ["tracker-2"]),
        (["-e", "target=front"], ["front"]),
        (["-e", "target=all"], ["front", "tracker-1", "tracker-2"]),
        (["-e", "target=all:!front:!tracker-1"], ["tracker-2"]),
        (["-e", "target=~tracker-.*"], ["tracker-1", "tracker-2"]),
        (["-e", '{"target": ["tracker-1", "front"]}'], ["front", "tracker-1"]),
        (["-e", "target=localhost"], ["localhost"]),
    ],
)
def test_playbook_is_for_the_group_or_for_what_target_and_limit_say(tmp_path, arguments, hosts):
    assert listed(tmp_path, INVENTORY, "verify", *arguments) == hosts


def test_front_alone_needs_no_server(tmp_path):
    assert listed(tmp_path, FRONT_ONLY, "site") == ["front"]


@pytest.mark.parametrize("playbook", ["site", "verify", "backup", "restore", "rollback", "uninstall"])
def test_nobody_at_all_is_an_error_in_one_sentence(tmp_path, playbook):
    done = run(tmp_path, "all: {hosts: {other: }}", playbook)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert said.count("[ERROR]") == 1
    assert re.search(
        r"No machine is in mlflow(, haproxy, postgresql, pgbouncer, monitoring)?: the inventory \S+ has none there; add one, or",
        said,
    )
