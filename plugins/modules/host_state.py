#!/usr/bin/python
# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Read what a machine is, and which files it has, in one trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Read what a machine is, and which files it has
description:
  - Changes nothing, so it does the same in check mode.
options:
  paths:
    description: Paths of files that may be there.
    type: list
    elements: str
    default: []
author: The authors of this repository
"""

EXAMPLES = r"""
- name: Look for PgBouncer
  mlops.mlflow.host_state:
    paths: [/usr/sbin/pgbouncer]
  register: there
"""

RETURN = r"""
system:
  description: The machine; see plugins/module_utils/host.py.
  returned: always
  type: dict
missing:
  description: Those of I(paths) that are no files.
  returned: always
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils.host import read_system


def main():
    spec = {"paths": {"type": "list", "elements": "str", "default": []}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    missing = [path for path in module.params["paths"] if not os.path.isfile(path)]
    module.exit_json(changed=False, system=read_system(), missing=missing)


if __name__ == "__main__":
    main()
