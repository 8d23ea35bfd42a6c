"""The order of the role's phases, and which of them no ``--tags`` go past. The scenarios run them."""

from pathlib import Path

import pytest
import yaml

TASKS = Path(__file__).resolve().parents[2] / "roles" / "mlflow" / "tasks"


def phases(name: str) -> dict[str, dict]:
    """The includes of a file of tasks, by the file that each includes, in their order."""
    tasks = yaml.safe_load((TASKS / f"{name}.yml").read_text())
    included = [
        (task["ansible.builtin.include_tasks"], task) for task in tasks if "ansible.builtin.include_tasks" in task
    ]
    return {
        what["file"].removesuffix(".yml"): {"tags": task["tags"], "inside": what["apply"]["tags"]}
        for what, task in included
    }


def test_backups_and_watch_are_turned_on_right_after_the_server_is_there():
    order = list(phases("main"))
    assert order[order.index("activate") + 1] == "timers"


def test_what_a_person_reads_last_comes_after_what_it_tells():
    order = list(phases("main"))
    assert order.index("accounts") < order.index("summary") == len(order) - 1


@pytest.mark.parametrize("name", ["main", "prepare_fleet"])
def test_no_tags_go_past_what_protects_the_data(name):
    found = phases(name)
    order = list(found)
    for phase in ("preflight", "probe_stores", "database"):
        assert found[phase] == {"tags": ["always"], "inside": ["always"]}
        if "configure" in found:
            assert order.index(phase) < order.index("configure")


def test_servers_that_share_a_store_are_all_there_whatever_the_tags():
    assert phases("prepare_fleet")["require_all_servers"] == {"tags": ["always"], "inside": ["always"]}


@pytest.mark.parametrize(
    "phase", ["account", "release", "configure", "activate", "verify", "accounts", "prune", "summary"]
)
def test_every_other_phase_has_its_own_tag(phase):
    assert phases("main")[phase] == {"tags": [phase], "inside": [phase]}


def test_timers_answer_to_the_tag_of_the_first_version_too():
    assert phases("main")["timers"] == {"tags": ["timers", "schedule"], "inside": ["timers", "schedule"]}
