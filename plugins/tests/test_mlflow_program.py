"""The module that asks programs on the machine: a report or one sentence, and no secret of the request anywhere."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
SECRET = "hush-hush-hush"
REPORT = "import json, sys; print(json.dumps({'words': len(json.load(sys.stdin)), 'changed': %r}))"
SILENT = "import sys; sys.stdin.read(); print('no JSON'); sys.exit('first line\\nthe reason')"
ASKED: dict[str, dict] = {
    "report": {"program": REPORT % [], "request": {"password": SECRET, "more": 1}},
    "date": {"program": "import sys; print(sys.stdin.read())", "request": {"on": date(2026, 1, 1)}},
    "change": {"program": REPORT % ["The user alice was made."], "request": {}},
    "silence": {"program": SILENT, "request": {"password": SECRET}, "question": "The stores could not be asked"},
    "on trial": {"program": "raise SystemExit(3)", "changes": True},
}


def ask(folder: Path, asked: dict[str, dict], *arguments: str) -> tuple[dict[str, dict], str]:
    """Ask Python programs by one playbook on this machine; returns what each task registered, and all output."""
    tasks = []
    for name, options in asked.items():
        given = {key: value for key, value in options.items() if key != "program"}
        given["argv"] = [sys.executable, "-I", "-c", options["program"]]
        content = {"content": "{{ asked | to_json }}", "dest": str(folder / f"{name}.json")}
        tasks += [
            {"mlops.mlflow.mlflow_program": given, "register": "asked", "failed_when": False},
            {"ansible.builtin.copy": content, "check_mode": False},
        ]
    playbook = folder / "playbook.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    command = [str(PLAYBOOK), "--inventory", "localhost,", "--connection", "local", "-vvv", *arguments, str(playbook)]
    here = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in asked}, done.stdout + done.stderr


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], str]:
    return ask(tmp_path_factory.mktemp("asked"), ASKED)


def test_report_is_read_and_says_whether_anything_has_changed(answers):
    asked, _ = answers
    assert asked["report"]["report"] == {"words": 2, "changed": []}
    assert [asked[name]["changed"] for name in ("report", "change")] == [False, True]
    assert [asked[name]["answered"] for name in ("report", "change")] == [True, True]


def test_date_of_an_inventory_is_asked_about_as_text(answers):
    assert answers[0]["date"]["report"] == {"on": "2026-01-01"}


def test_program_without_a_report_fails_with_its_last_word(answers):
    asked, _ = answers
    assert asked["silence"]["msg"] == "The stores could not be asked: the reason"


def test_program_without_a_report_may_be_asked_on_trial(answers):
    found = answers[0]["on trial"]
    assert (found["answered"], found["report"], found["status"], found["changed"]) == (False, {}, 3, True)
    assert "msg" not in found


def test_request_is_in_no_output_and_in_no_result(answers):
    asked, output = answers
    assert SECRET not in output + json.dumps(asked)


def test_check_mode_asks_nothing(tmp_path):
    asked, _ = ask(tmp_path, {"made": {"program": f"open({str(tmp_path / 'made')!r}, 'w')"}}, "--check")
    assert asked["made"]["skipped"] is True
    assert not (tmp_path / "made").exists()
