#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What the action plugin of this name takes and returns; it runs on the control node, and nothing here does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_program
short_description: Ask a program on the machine, and read its report
description:
  - Runs a command, gives it a request as JSON on its standard input, and reads the JSON object that it prints.
  - A request may hold secrets, so neither the result nor the machine's journal has it. The programs of mlflow_service
    keep secrets out of their reports.
  - Runs in check mode as well; a program that changes anything is asked with C(check_mode) or a C(when) in mind.
options:
  argv:
    description: The command and its arguments. Every account of the machine can read them.
    type: list
    elements: str
    required: true
  request:
    description: What the program reads from its standard input, as JSON.
    type: raw
  question:
    description: >-
      What was asked, as the beginning of a sentence, such as C(The stores could not be asked). Where the program prints
      no report, the task fails with it and the program's last word. Without it, the task goes on.
    type: str
    default: ""
  changes:
    description: Whether the program changes something whatever it reports. Otherwise its report says so (C(changed)).
    type: bool
    default: false
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Ask the stores what the server will ask of them
  mlops.mlflow.mlflow_program:
    argv: [/opt/mlflow/current/bin/python, -I, -m, mlflow_service.preflight]
    request: {environment: {}, user: mlflow}
    question: The stores could not be asked
  register: asked
"""

RETURN = r"""
answered:
  description: Whether the program has printed a report.
  returned: always
  type: bool
report:
  description: It; empty where there is none.
  returned: always
  type: dict
status:
  description: The program's exit status.
  returned: always
  type: int
said:
  description: The last line of its standard error.
  returned: always
  type: str
"""
