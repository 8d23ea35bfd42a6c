"""Every secret of the machine, and every place that is searched for them."""

import base64
import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import machine as machines
from fixtures import Machine

MADE = "/etc/mlflow/secrets"
LOCAL_TOKEN = "/run/mlflow/local-token"
TLS_KEYS = "/etc/haproxy/certificates/*.pem"
SEARCHED_BY = "/run/secrets-to-search-for"
# Whatever its mode: nobody expects a secret there, and the next user of /tmp may be somebody else.
FOLDERS = "/tmp /var/tmp /var/log /root"


@dataclass
class Secrets:
    """Those of the runs so far, in the forms in which they could show: as they are, and as base64 of a login."""

    forms: list[str] = field(default_factory=list)

    def add(self, secret: str, login: str = "") -> str:
        """Remember a secret; with the name of its user, in the form of HTTP's basic authentication, too."""
        encoded = [secret.encode(), *([f"{login}:{secret}".encode()] if login else [])]
        found = [secret, *(base64.b64encode(form).decode().rstrip("=") for form in encoded)]
        self.forms += [form for form in found if form not in self.forms]
        return secret

    def add_pem(self, pem: str) -> str:
        """Remember each line of the private key in a PEM, and return the PEM."""
        for key in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", pem, re.DOTALL):
            for line in key.split():
                self.add(line)
        return pem

    def add_made(self, machine: Machine, admin: str = "admin") -> None:
        """Remember those that the machine has made for itself."""
        for name in machine.run(f"ls {MADE}").split():
            content = machine.run(f"cat {MADE}/{name}")
            self.add(content.splitlines()[-1], admin if name == "admin-password" else "")
        self.add(machine.run(f"cat {LOCAL_TOKEN}").strip())
        self.add_pem(machine.run(f"cat {TLS_KEYS}"))

    def within(self, text: str) -> list[str]:
        return [form for form in self.forms if form in text]


class ControlNode:
    """What ansible-playbook leaves behind here: a fact cache, a log, temporary files.

    Attributes:
        environment: turns all of it on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(folder / "facts"),
            "ANSIBLE_GATHERING": "smart",
            "ANSIBLE_LOG_PATH": str(folder / "ansible.log"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "temporary"),
        }

    def showing(self, secrets: Secrets) -> dict[str, list[str]]:
        """Files with a secret, and which ones they have; the settings that we gave are in a folder of their own."""
        found = {}
        for path in filter(Path.is_file, self.folder.rglob("*")):
            shown = secrets.within(path.read_text(errors="replace"))
            if shown:
                found[str(path.relative_to(self.folder))] = shown
        return found


class Searched(Machine):
    """The machine, with a view on everything that others than the service could read."""

    def mark(self) -> None:
        """Only files that are written from now on can hold a secret of this scenario."""
        self.run("touch /run/begun")

    def journal(self) -> str:
        return self.host.run("journalctl --no-pager --output=export").stdout_bytes.decode(errors="replace")

    def units(self) -> str:
        return self.run("systemctl show '*'")

    def readable_files(self, secrets: Secrets) -> list[str]:
        """Files that everybody may read, wherever they are."""
        return self._with("/ /run -xdev -type f -perm -o=r", secrets)

    def left_behind(self, secrets: Secrets) -> list[str]:
        """Files of any mode where none has a business to be; Ansible's own folder is below /root."""
        return self._with(f"{FOLDERS} -xdev -type f", secrets)

    def _with(self, which: str, secrets: Secrets) -> list[str]:
        write = ["docker", "exec", "--interactive", self.name, "sh", "-c", f"umask 077; cat > {SEARCHED_BY}"]
        subprocess.run(write, input="\n".join(secrets.forms) + "\n", text=True, check=True)
        search = f"find {which} -newer /run/begun -print0 | xargs -0r grep -lF -f {SEARCHED_BY}"
        found = machines.run("docker", "exec", self.name, "sh", "-c", f"{search}; rm {SEARCHED_BY}").stdout
        return sorted(set(found.splitlines()) - {SEARCHED_BY})

    def provision(self, node: ControlNode, file: Path, settings: dict, *arguments: str) -> str:
        """Run site.yml with secret settings, told to say all it can; returns what it said."""
        file.write_text(json.dumps(settings))
        os.environ.update(node.environment)
        try:
            done = self.playbook("--extra-vars", f"@{file}", "-vvv", "--diff", *arguments)
        finally:
            for name in node.environment:
                del os.environ[name]
        assert done.status == 0, done.output[-6000:]
        return done.output
