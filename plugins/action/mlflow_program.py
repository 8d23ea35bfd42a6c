# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Ask a program on the machine, and read its report. What it is asked may hold secrets, so no output has it."""

from __future__ import annotations

import json

from ansible.plugins.action import ActionBase

SILENT = "no word"


class ActionModule(ActionBase):
    """See plugins/modules/mlflow_program.py for the options."""

    _requires_connection = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "argv": {"type": "list", "elements": "str", "required": True},
                "request": {"type": "raw"},
                "question": {"type": "str", "default": ""},
                "changes": {"type": "bool", "default": False},
            }
        )
        command = {"argv": given["argv"]}
        if given["request"] is not None:
            command["stdin"] = json.dumps(given["request"], default=str)  # YAML makes dates of some words
        # The module for commands would write what it is asked to the machine's journal.
        quiet = {**(task_vars or {}), "ansible_no_target_syslog": True}
        done = self._execute_module(module_name="ansible.legacy.command", module_args=command, task_vars=quiet)
        for instead in ("unreachable", "skipped"):
            if done.get(instead):
                return result | {instead: True, "msg": done.get("msg", "")}
        report = read_report(str(done.get("stdout") or ""))
        said = str(done.get("stderr") or done.get("msg") or "").strip().splitlines()
        result |= {
            "changed": bool(given["changes"]) or bool((report or {}).get("changed")),
            "answered": report is not None,
            "report": report or {},
            "status": done.get("rc", 1),
            "said": said[-1] if said else SILENT,
        }
        if report is None and given["question"]:
            result |= {"failed": True, "msg": f"{given['question']}: {result['said']}"}
        return result


def read_report(said: str) -> dict | None:
    """The JSON object that a program has printed; None where it has printed none."""
    try:
        report = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None
