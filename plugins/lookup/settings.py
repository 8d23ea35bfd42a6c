# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""A lookup of a role's settings, for rules and derivations in Python."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: settings
short_description: All public settings of a role, as a dictionary
description:
  - The settings are those that the role's C(defaults/main.yml) names; their values are what Ansible has for them now.
options:
  _terms:
    description: Path of the role, one.
    type: list
    elements: path
    required: true
  contents_of:
    description: >-
      Names of settings that name a file on the control node; where there is one, its text is added as
      C(NAME.content), also where it is encrypted with Ansible's vault.
    type: list
    elements: str
    default: []
  matching:
    description: A regular expression; only settings whose names it matches from the start are looked up.
    type: str
    default: ""
"""

EXAMPLES = """
- name: Refuse settings that are wrong in themselves
  ansible.builtin.fail:
    msg: "{{ wrong | join(' ') }}"
  when: wrong | length > 0
  vars:
    wrong: "{{ lookup('mlops.mlflow.settings', role_path) | mlops.mlflow.wrong_settings(role_path) }}"
"""

RETURN = """
_raw:
  description: One dictionary; each setting by its name.
  type: list
  elements: dict
"""


class LookupModule(LookupBase):
    """Ansible's entry point."""

    def run(self, terms: list, variables: dict | None = None, **options: object) -> list:
        self.set_options(var_options=variables, direct=options)
        defaults = self._loader.load_from_file(os.path.join(str(terms[0]), "defaults", "main.yml"))
        names = [name for name in defaults if re.match(self.get_option("matching"), name)]
        found = {name: self._templar.template(variables[name]) for name in names}
        for name in self.get_option("contents_of"):
            if found[name] and os.path.isfile(str(found[name])):
                real = self._loader.get_real_file(os.path.realpath(str(found[name])))
                found[f"{name}.content"] = Path(real).read_text(encoding="utf-8")
        return [found]
