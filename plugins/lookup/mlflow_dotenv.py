# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""A lookup that turns the `.env` file of the Docker Compose service into settings of the role."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.plugins.lookup import LookupBase

try:
    from dotenv.parser import parse_stream
except ImportError:
    parse_stream = None

DOCUMENTATION = """
name: mlflow_dotenv
short_description: Settings of the mlflow role out of a Compose service's .env file
description:
  - Reads a C(.env) file on the control node, in plain text or encrypted by Ansible Vault, and gives each variable
    that the Compose service knew the name and the form that the role wants. An empty value counts as not given.
  - Values are read as Docker Compose reads them. In single quotes every character stands for itself. Elsewhere
    C(${NAME}), C(${NAME:-default}) and C($NAME) stand for a variable that the file has set before, and C($$) for one
    C($). A C($NAME) that the file does not set stays as it is; a C(${NAME}) that it does not set is an error.
  - The environment of the control node is not looked at.
requirements:
  - python-dotenv on the control node
options:
  _terms:
    description: The path of the file, once. An empty one stands for a file that sets nothing.
    type: list
    elements: str
    required: true
notes:
  - A relative path is looked for in the folder that Ansible was started in, then where a role's files are.
"""

EXAMPLES = """
- name: Show the settings that the old service had
  ansible.builtin.debug:
    msg: "{{ lookup('mlops.mlflow.mlflow_dotenv', '../mlflow/.env').settings | dict2items | map(attribute='key') }}"
"""

RETURN = """
_raw:
  description: One dictionary.
  type: list
  elements: dict
  contains:
    settings:
      description: The role's settings, by name.
      type: dict
    unknown:
      description: The names of the variables that mean nothing to the role, sorted.
      type: list
      elements: str
"""

NAME = re.compile(r"[A-Za-z_][\w.-]*")  # anything else is a line of a secret without its quotes
REFERENCE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>\w+)(?::?-(?P<default>[^}]*))?\})")

# What needs no more than another name.
TEXTS = {
    "MLFLOW_POSTGRES_CONNECTION_STRING": "mlflow_postgres_connection_string",
    "POSTGRES_HOST": "mlflow_postgres_host",
    "POSTGRES_DB": "mlflow_postgres_database",
    "POSTGRES_USER": "mlflow_postgres_user",
    "POSTGRES_PASSWORD": "mlflow_postgres_password",
    "GCP_PROJECT": "mlflow_gcp_project",
    "GOOGLE_APPLICATION_CREDENTIALS_TYPE": "mlflow_gcp_key_type",
    "GOOGLE_APPLICATION_CREDENTIALS_PROJECT_ID": "mlflow_gcp_key_project_id",
    "GOOGLE_APPLICATION_CREDENTIALS_PRIVATE_KEY_ID": "mlflow_gcp_key_private_key_id",
    "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_EMAIL": "mlflow_gcp_key_client_email",
    "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_ID": "mlflow_gcp_key_client_id",
    "GOOGLE_APPLICATION_CREDENTIALS_AUTH_URI": "mlflow_gcp_key_auth_uri",
    "GOOGLE_APPLICATION_CREDENTIALS_TOKEN_URI": "mlflow_gcp_key_token_uri",
    "GOOGLE_APPLICATION_CREDENTIALS_AUTH_PROVIDER_X509_CERT_URL": "mlflow_gcp_key_auth_provider_x509_cert_url",
    "GOOGLE_APPLICATION_CREDENTIALS_CLIENT_X509_CERT_URL": "mlflow_gcp_key_client_x509_cert_url",
}


def port(name: str) -> Callable[[str], dict]:
    """A converter to a port number; it raises ValueError with the end of a sentence."""

    def convert(value: str) -> dict:
        if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
            raise ValueError("is no port number (1 to 65535)")
        return {name: int(value)}

    return convert


def host(value: str) -> dict:
    """An address is what the server listens on; a name is what clients call it, on any address."""
    if value == "localhost":
        return {"mlflow_host": "127.0.0.1"}
    try:
        return {"mlflow_host": str(ipaddress.ip_address(value.strip("[]")))}
    except ValueError:
        name = urlsplit(value if "://" in value else f"//{value}").hostname
    if not name:
        raise ValueError("is neither an address nor a host name")
    return {"mlflow_host": "0.0.0.0", "mlflow_allowed_hosts": [f"[{name}]" if ":" in name else name]}


def location(value: str) -> dict:
    """A URL or a path as it is; a bare name is a bucket of Google Cloud Storage."""
    known = "://" in value or value.startswith("/")
    return {"mlflow_artifacts_location": value if known else "gs://" + value.rstrip("/")}


def folder(value: str) -> dict:
    name = value.strip("/")
    return {"mlflow_artifacts_folder": name} if name else {}


def private_key(value: str) -> dict:
    """A key in PEM; on one line its line ends are written ``\\n``."""
    return {"mlflow_gcp_key_private_key": value.replace("\\n", "\n")}


CONVERTERS: dict[str, Callable[[str], dict]] = {
    "MLFLOW_TRACKING_PORT": port("mlflow_port"),
    "MLFLOW_HOST": host,
    "MLFLOW_BUCKET_LOCATION": location,
    "MLFLOW_FOLDER_LOCATION": folder,
    "POSTGRES_PORT": port("mlflow_postgres_port"),
    "GOOGLE_APPLICATION_CREDENTIALS_PRIVATE_KEY": private_key,
}
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"


def parse(text: str) -> dict[str, str]:
    """The variables of a `.env` file that are not empty.

    Raises:
        ValueError: the end of a sentence, with the line's number and nothing of its content.
    """
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text.removeprefix("\ufeff"))):
        line = binding.original.line + re.match(r"\s*", binding.original.string)[0].count("\n")
        if binding.error or not NAME.fullmatch(binding.key or "A"):
            raise ValueError(f"line {line} is not NAME=value, or a quote in it is not closed")
        if binding.key is None:
            continue
        written = binding.original.string.partition("=")[2].lstrip()
        value = binding.value or ""
        values[binding.key] = value if written.startswith("'") else interpolate(value, values, line)
    return {name: value for name, value in values.items() if value}


def interpolate(value: str, values: dict[str, str], line: int) -> str:
    """A value with the variables that it names, as Compose puts them in; raises ValueError like `parse`.

    Source: https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/.
    """

    def replace(match: re.Match) -> str:
        if match["escaped"]:
            return "$"
        if match["plain"]:
            return values.get(match["plain"], match[0])
        found = values.get(match["braced"]) or match["default"]
        if found is None:
            raise ValueError(
                f"line {line} has a ${{…}} that no line before it sets; a $ of the value itself needs single quotes"
            )
        return found

    return REFERENCE.sub(replace, value)


def key_file(value: str, base: str) -> dict:
    """Which kind of credentials a file holds, as far as it can be read here.

    Args:
        value: the path as the `.env` has it.
        base: the folder that a relative path starts from.
    """
    path = os.path.join(base, os.path.expanduser(value))
    path = os.path.abspath(path) if os.path.isfile(path) else value
    try:
        with open(path, encoding="utf-8") as file:
            kind = json.load(file).get("type")
    except (OSError, ValueError, AttributeError):  # an encrypted one, or one that only the container had
        kind = None
    if kind == "authorized_user":
        return {"mlflow_gcp_auth": "user", "mlflow_gcp_user_credentials_file": path}
    return {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": path}


def settings(values: dict[str, str], base: str) -> dict:
    """The role's settings for the variables of a `.env` file that lies in ``base``; raises ValueError."""
    found: dict = {}
    for name, value in values.items():
        if name in TEXTS:
            found[TEXTS[name]] = value
        elif name in CONVERTERS:
            try:
                found.update(CONVERTERS[name](value))
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
    if "mlflow_postgres_connection_string" in found or "mlflow_postgres_host" in found:
        found["mlflow_backend_store"] = "postgresql"
    if "mlflow_gcp_key_private_key" in found:
        found["mlflow_gcp_auth"] = "key_fields"  # the file is then the one that the old service made of them
    elif KEY_FILE in values:
        found.update(key_file(values[KEY_FILE], base))
    return found


class DotenvError(Exception):
    """Why a file can't be used; one sentence for a person, without any of its values."""


class LookupModule(LookupBase):
    """Ansible's way to call the lookup."""

    def run(self, terms: list, variables: dict | None = None, **kwargs: object) -> list[dict]:
        """One dictionary in a list. Its ``error`` is for the role to say, whose sentence Ansible does not wrap."""
        self.set_options(var_options=variables, direct=kwargs)
        if len(terms) != 1:
            raise AnsibleLookupError(f"mlflow_dotenv takes the path of one file, not {len(terms)}.")
        found: dict = {"settings": {}, "unknown": [], "error": ""}
        try:
            if terms[0]:
                path = self.find(str(terms[0]), variables or {})
                values = self.values(path)
                known = {*TEXTS, *CONVERTERS, KEY_FILE}
                found["settings"] = settings(values, os.path.dirname(path))
                found["unknown"] = sorted(name for name in values if name not in known)
        except DotenvError as error:
            found["error"] = str(error)
        except ValueError as error:
            found["error"] = f"The .env file {path} can't be used: {error}."
        return [found]

    def find(self, path: str, variables: dict) -> str:
        """The absolute path of the file."""
        near = os.path.abspath(os.path.expanduser(path))
        if os.path.isfile(near):
            return near
        found = self.find_file_in_search_path(variables, "files", os.path.expanduser(path), ignore_missing=True)
        if not found:
            raise DotenvError(f"mlflow_dotenv names {near}, which is no file on the control node.")
        return found

    def values(self, path: str) -> dict[str, str]:
        """The file's variables; the file is decrypted where that is needed."""
        if parse_stream is None:
            raise DotenvError(
                "mlflow_dotenv needs the Python package python-dotenv where Ansible runs (requirements/control.txt)."
            )
        try:
            text = str(self._loader.get_text_file_contents(path))
        except (OSError, AnsibleError) as error:
            reason = getattr(error, "message", str(error)).split("\n")[0].rstrip(".")
            raise DotenvError(f"The .env file {path} can't be read: {reason}.") from None
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("it is not UTF-8")
        return parse(text)
