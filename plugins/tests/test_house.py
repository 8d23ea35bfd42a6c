"""The house: a task says what is done and when, and what decides stands in Python."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("haproxy", "mlflow", "monitoring", "pgbouncer", "postgresql")
EXPRESSION = re.compile(r"\{\{.*?\}\}(?!\})", re.DOTALL)
LINES = 2  # of an expression in a task


@pytest.mark.parametrize("role", ROLES)
def test_no_expression_in_a_task_is_long(role):
    found = [
        f"{path.name}: {expression[0]}"
        for path in sorted((ROOT / "roles" / role / "tasks").glob("*.yml"))
        for expression in EXPRESSION.finditer(path.read_text())
        if expression[0].count("\n") >= LINES
    ]
    assert found == []


def test_playbooks_and_roles_meet_by_public_names_only():
    """A playbook uses no private variable of a role, and a role none of a playbook or of another role."""
    private = re.compile(rf"\b__({'|'.join(ROLES)})_\w+")
    for path in [*ROOT.glob("playbooks/*.yml"), *ROOT.glob("playbooks/*/*.yml")]:
        assert {found[0] for found in private.finditer(path.read_text())} == set(), path
    for role in ROLES:
        for path in [*(ROOT / "roles" / role).rglob("*.yml"), *(ROOT / "roles" / role).rglob("*.j2")]:
            names = re.findall(r"\b__([a-z]+)_\w+", path.read_text())
            assert {name for name in names if name not in (role, "init")} == set(), path


def test_no_role_names_a_group_or_a_playbooks_folder():
    for path in [
        *ROOT.glob("roles/*/tasks/*.yml"),
        *ROOT.glob("roles/*/vars/*.yml"),
        *ROOT.glob("roles/*/defaults/*.yml"),
    ]:
        assert not re.search(r"\bgroups\[|playbook_dir", path.read_text()), path


@pytest.mark.parametrize(
    ("file", "lines"), [("roles/mlflow/tasks/preflight.yml", 100), ("roles/mlflow/vars/main.yml", 180)]
)
def test_file_stays_small(file, lines):
    assert len((ROOT / file).read_text().splitlines()) <= lines
