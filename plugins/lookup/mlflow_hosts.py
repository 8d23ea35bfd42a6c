# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""A lookup of the machines that a playbook is for, which says why there are none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.inventory.data import InventoryData
from ansible.plugins.loader import inventory_loader, lookup_loader
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: mlflow_hosts
short_description: The machines that a playbook is for, or one sentence why there are none
description:
  - Ansible ends well where no machine matches, and where an inventory can't be read. This lookup fails then.
  - Where the inventory asks Google (C(google.cloud.gcp_compute)) and no machine matches, its plugin is asked once more,
    and what it fails with becomes a sentence.
  - C(--limit) is not looked at.
requirements:
  - google-auth and requests on the control node, where the inventory asks Google
options:
  _terms:
    description: >-
      Patterns of hosts; the first that any machine matches counts. Without a pattern, only an inventory that can't
      ask Google is an error.
    type: list
    elements: str
"""

EXAMPLES = """
- name: Do something to the servers, of which there must be one
  hosts: "{{ query('mlops.mlflow.mlflow_hosts', 'mlflow') }}"
"""

RETURN = """
_raw:
  description: The names that match it.
  type: list
  elements: str
"""

PLUGIN = "google.cloud.gcp_compute"
LOG_IN = (
    "run `gcloud auth application-default login`, or have GOOGLE_APPLICATION_CREDENTIALS name a service account's key"
)
CONNECT = "see to the network, or to HTTPS_PROXY and REQUESTS_CA_BUNDLE where it has a proxy or a CA of its own"
PERMIT = "see to the project, its Compute Engine API and what the credentials may do there"
ENDINGS = tuple(f"{name}.{ending}" for name in ("gcp", "gcp_compute") for ending in ("yml", "yaml"))


def google_files(sources: list[str]) -> Iterator[Path]:
    """Files among an inventory's sources, and in its folders, that Google's plugin reads."""
    for source in map(Path, sources):
        yield from (path for path in (sorted(source.iterdir()) if source.is_dir() else [source]) if is_google(path))


def is_google(path: Path) -> bool:
    return path.name.endswith(ENDINGS) and path.is_file()


def trouble(error: BaseException) -> str:
    """What is wrong, in one sentence, where Google's plugin or its libraries have failed."""
    try:  # here, because most inventories do not ask Google, and requests takes a third of a second to import
        import google.auth.exceptions as google
        import requests
    except ImportError:
        return f"the libraries google-auth and requests are missing ({google_words(error)})."
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    for each in chain:
        if isinstance(each, google.DefaultCredentialsError):
            return f"there are no credentials that can be read ({first_sentence(each)}); {LOG_IN}."
        if isinstance(each, google.RefreshError):
            return f"Google refuses the credentials ({each.args[0]}); {LOG_IN}, and see to this machine's clock."
        if isinstance(each, (google.TransportError, requests.RequestException)):
            host = re.search(r"host='([^']+)'", str(each))
            return f"{host[1] if host else 'Google'} can't be reached ({innermost(each)}); {CONNECT}."
    return f"Google refuses ({google_words(error)}); {PERMIT}."


def first_sentence(error: BaseException) -> str:
    return str(error.args[0] if error.args else error).split(". ")[0].strip().rstrip(".")


def innermost(error: BaseException) -> str:
    """The last cause in the text of an error of requests, without its objects."""
    cause = re.search(r"""\(Caused by \w+\((.*)\)\)""", str(error), re.DOTALL)
    return re.sub(r"<[^>]*>[:,]? ?", "", cause[1] if cause else str(error)).strip("'\" ")


def google_words(error: BaseException) -> str:
    """The messages in an answer of Google's that the plugin failed with, or what it failed with else."""
    try:
        return " ".join(each["message"].rstrip(".") for each in ast.literal_eval(str(error)))
    except (ValueError, SyntaxError, TypeError, KeyError):
        return str(error)


class LookupModule(LookupBase):
    """Ansible's entry point."""

    def run(self, terms: list[str | list[str]], variables: dict | None = None, **kwargs: object) -> list[str]:
        sources = [str(source) for source in variables.get("ansible_inventory_sources") or []]
        # Google's plugin fails half-way there, and Ansible goes on with the half.
        both = sorted(set(variables["groups"]).intersection(variables["groups"]["all"]))
        if both and any(google_files(sources)):
            raise AnsibleLookupError(f"{both[0]} is a machine and a group at once; give the machine another name.")
        terms = [[term] if isinstance(term, str) else list(term) for term in terms]
        if found := self.matching(terms, variables):
            return found
        patterns = ", ".join(":".join(term) for term in terms)
        reasons = []
        for path in google_files(sources):
            names, wrong = self.ask_google(path)
            if wrong:
                raise AnsibleLookupError(f"{path} finds no machine: {wrong}")
            reasons.append(f"{path} finds {' '.join(names) or 'no machine'}")
        if not terms:
            return []
        if reasons:
            raise AnsibleLookupError(
                f"No machine is in {patterns}: {', and '.join(reasons)}; see to the projects, zones and filters there, "
                "and to the machines' state and labels."
            )
        raise AnsibleLookupError(
            f"No machine is in {patterns}: the inventory {', '.join(sources) or 'is empty; -i names one'}"
            f"{' has none there; add one, or name others with -e target=…' if sources else ''}."
        )

    def matching(self, terms: list[list[str]], variables: dict) -> list[str]:
        names = lookup_loader.get("ansible.builtin.inventory_hostnames", loader=self._loader, templar=self._templar)
        return next((found for term in terms if (found := names.run(term, variables))), [])

    def ask_google(self, path: Path) -> tuple[list[str], str]:
        """The machines that Google's plugin finds for a file, and what it fails with."""
        found = InventoryData()
        plugin = inventory_loader.get(PLUGIN)
        if plugin is None:
            return [], f"the collection {PLUGIN.rpartition('.')[0]} is not installed; requirements.yml names it."
        try:
            plugin.parse(found, self._loader, str(path), cache=False)
        except Exception as error:  # it lets through whatever it meets, an answer's missing field too
            return [], trouble(error)
        return sorted(found.hosts), ""
