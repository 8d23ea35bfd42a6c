"""A change in words."""

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_change as change
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_stores as stores

OLD, NEW = "3.16.1-0123456789ab", "3.17.2-0123456789ab"


@pytest.mark.parametrize(
    ("current", "pending", "revision", "head", "said"),
    [
        ("", [], "", "", "MLflow 3.17.2 would be started."),
        (NEW, ["/etc/mlflow/mlflow.env", "/x/a.service"], "a", "a", "started anew with mlflow.env, a.service."),
        (NEW, [], "a", "a", "started anew with its units on."),
        (
            OLD,
            [],
            "a",
            "b",
            f"from release {OLD} to {NEW}, and its schema would be migrated from a to b, after a backup.",
        ),
        (OLD, [], "a", "a", "and its schema would stay as it is."),
        (OLD, [], "a", "", "and whether its schema would be migrated shows once the release is built."),
    ],
)
def test_check_mode_says_what_would_be(current, pending, revision, head, said):
    assert change.would(current, NEW, pending, revision, head).endswith(said)


PLAN = {"unreadable": "", "lost": {"runs": 2, "registered_models": 1}, "backup": {"name": "B", "created": "noon"}}


def test_restore_says_what_it_gives_up():
    said = change.given_up(PLAN)
    assert said.startswith(
        "Since the backup B the store was given 2 runs, 1 registered models, which stays in the backup"
    )
    assert said.endswith("it becomes what it was at noon.")
    assert "was given nothing" in change.given_up({**PLAN, "lost": {}})
    broken = change.given_up({**PLAN, "unreadable": "not a database", "accounts": "Accounts go back, too."})
    assert (
        broken == "The store can not be read (not a database) and becomes what it was at noon. Accounts go back, too."
    )


REPORT = {"failed": "no health", "stuck": "", "backup": "", "said": "Traceback"}


@pytest.mark.parametrize(
    ("report", "current", "now"),
    [
        ({}, OLD, "The release and the settings that ran before run again."),
        ({"backup": "/b"}, OLD, "The release and the settings that ran before run again, with the data as it was."),
        ({}, "", "No server ran before. Correct the settings and run the playbook again."),
        ({"stuck": "disk full"}, OLD, "Going back failed, too (disk full), so clients wait; mend that,"),
    ],
)
def test_change_that_was_given_up_says_why_and_what_runs(report, current, now):
    said = change.went_back({**REPORT, **report}, NEW, current).splitlines()
    assert said[0] == "MLflow 3.17.2 did not pass (no health)."
    assert said[1].startswith(now)
    assert said[2:] == ["What the server said last:", "Traceback"]


def test_change_goes_on_or_back_in_a_unit_of_its_own():
    command = change.in_a_unit(["python", "-I"], "/etc/mlflow", NEW)
    assert command[0] == "systemd-run"
    assert "--property=ExecStopPost=python -I recover /etc/mlflow" in command
    assert command[-4:] == ["python", "-I", "take-up", "/etc/mlflow"]


HERE = {"workers": 10, "pools_per_worker": 2}


@pytest.mark.parametrize(
    ("available", "wrong"), [(0, []), (40, []), (39, ["PostgreSQL has 39 connections for this server"])]
)
def test_too_few_connections_are_refused(available, wrong):
    found = stores.wrong_stores({"errors": []}, HERE, available)
    assert [sentence[: len(words)] for sentence, words in zip(found, wrong, strict=True)] == wrong
    assert stores.wrong_stores({"errors": ["No way."]}, HERE, available)[0] == "No way."
