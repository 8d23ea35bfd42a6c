"""Google in a container, for tests of gs:// artifact stores; google/server.py says what it does.

A scenario's playbooks start it beside a machine, its tests go on with it, and it is removed with the machine:

    python molecule/shared/google_cloud.py up mlflow-gcs --bucket mlflow-artifacts

    google = Google("mlflow-gcs")
    key = google.service_account("mlflow")
    google.objects("mlflow-artifacts")

`alone` starts one that only the control node asks, by its proxy. `make lock` locks its packages.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import machine as machines

FOLDER = Path(__file__).with_name("google")
RECIPE = ["Dockerfile", "requirements.txt", "server.py", "compute.py"]
CONTROL_PORT = 8000
PROXY_PORT = 8001
ALIASES = [
    "storage.googleapis.com",
    "oauth2.googleapis.com",
    "www.googleapis.com",
    "accounts.google.com",
    "iamcredentials.googleapis.com",
    "metadata.google.internal",
]
METADATA_ADDRESS = "169.254.169.254"  # Google's libraries ask this address, not the name, whether this is a VM
OBJECT_USER = ("create", "get", "delete", "list", "update")  # what roles/storage.objectUser allows
CA_BUNDLE = "/etc/ssl/certs/with-google.pem"  # on a machine: what it trusted before, and this Google
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


def image() -> str:
    """Name of the image of Google; built when it is missing or its recipe has changed."""
    base = machines.image("bookworm")
    content = base.encode() + b"".join((FOLDER / name).read_bytes() for name in RECIPE)
    tag = f"{machines.REPOSITORY}:google-{hashlib.sha256(content).hexdigest()[:12]}"
    if not machines.docker("images", "--quiet", tag):
        print(f"Building {tag}, which stands for Google.", flush=True)
        with tempfile.TemporaryDirectory(prefix="mlflow-machine-") as folder:
            for name in RECIPE:
                shutil.copy(FOLDER / name, folder)
            install_packages(Path(folder) / "packages")
            environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
            machines.docker("build", "--quiet", "--tag", tag, f"--build-arg=BASE={base}", folder, env=environment)
    return tag


def install_packages(folder: Path) -> None:
    """Install what server.py imports for Debian 12's Python; the image itself needs no pip for it."""
    processor = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    machines.run(
        *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--require-hashes"),
        *("--target", str(folder), "--python-version", "3.11", "--python-platform", f"{processor}-manylinux_2_28"),
        *("-r", str(FOLDER / "requirements.txt")),
        env={**os.environ, "UV_SYSTEM_CERTS": "true"},
    )


class Google:
    """Cloud Storage, its token endpoint and a VM's metadata server, in a container.

    It remembers nothing itself: another process can go on with ``Google(machine)`` where one has started it.

    Args:
        machine: that it is beside, or that it is removed with.
    """

    def __init__(self, machine: str) -> None:
        self.name = f"{machine}-google"
        self.made_for = f"--label={machines.MADE_FOR}={machine}"

    @property
    def network(self) -> str:
        """The Docker network that it is on."""
        shown = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}"
        return machines.docker("inspect", "--format", shown, self.name)

    def start(self, network: str) -> None:
        """Start it on a Docker network, which is made if it does not exist; anything of an earlier run goes."""
        tag = image()
        machines.remove(self.name)
        if machines.run("docker", "network", "inspect", network, check=False).returncode != 0:
            machines.docker("network", "create", self.made_for, network)
        aliases = [f"--network-alias={alias}" for alias in ALIASES]
        where = ["--network", network, "--link-local-ip", METADATA_ADDRESS, *aliases]
        published = [f"--publish=127.0.0.1::{port}" for port in (CONTROL_PORT, PROXY_PORT)]
        machines.docker("run", "--detach", "--name", self.name, self.made_for, *where, *published, tag)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ca()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    said = machines.run("docker", "logs", self.name, check=False).stderr[-2000:]
                    raise machines.SetupError(f"Google did not start within 30 s: {said}") from error
                time.sleep(0.1)  # until it is asked again, no longer than the deadline

    def join(self, machine: str) -> None:
        """Put a machine on the network, with a way to the metadata server's address; joining again is no harm."""
        network = self.network
        machines.run("docker", "network", "disconnect", network, machine, check=False)
        host = zlib.crc32(machine.encode())  # link-local, and another one for each machine
        address = f"169.254.{host // 256 % 160 + 1}.{host % 254 + 1}"
        machines.docker("network", "connect", "--link-local-ip", address, network, machine)

    def trust(self, machine: str) -> None:
        """Write CA_BUNDLE on a machine."""
        write = f"cat {machines.CA_BUNDLES[0]} - > {CA_BUNDLE}"
        machines.docker("exec", "--interactive", machine, "sh", "-c", write, input=self.ca())

    def ca(self) -> str:
        """PEM of the CA that signed its certificates; the machine has to trust it."""
        return self._ask("ca")

    def service_account(
        self, name: str, permissions: tuple[str, ...] = OBJECT_USER, project: str = "stand-in"
    ) -> dict[str, str]:
        """A key file's content. Each call makes one more key; ``permissions`` are the account's from now on."""
        return self._ask("service_account", name=name, project=project, permissions=permissions)

    def user(self, email: str = "user@example.com", permissions: tuple[str, ...] = OBJECT_USER) -> dict[str, str]:
        """The content of the file that ``gcloud auth application-default login`` leaves behind."""
        return self._ask("user", email=email, permissions=permissions)

    def vm(
        self,
        email: str | None = "vm@stand-in.iam.gserviceaccount.com",
        permissions: tuple[str, ...] = OBJECT_USER,
        scopes: tuple[str, ...] = (CLOUD_PLATFORM,),
        project: str = "stand-in",
    ) -> None:
        """Give the VM a service account; without this call, or with None, it has none."""
        self._ask("vm", email=email, permissions=permissions, scopes=scopes, project=project)

    def permissions(self, identity: str, *permissions: str) -> None:
        """What an identity may do with objects from now on: create, get, delete, list, update."""
        self._ask("permissions", identity=identity, permissions=permissions)

    def revoke(self, credentials: dict[str, str], account: bool = False) -> None:
        """Delete a key, or with ``account`` its whole service account, or log a user out."""
        self._ask("revoke", credentials=credentials, account=account)

    def proxy(self) -> str:
        """What HTTPS_PROXY on the control node has to be, so that Google's names lead here."""
        return f"http://{machines.docker('port', self.name, str(PROXY_PORT)).splitlines()[0]}"

    def unreachable(self, *names: str) -> None:
        """Have the proxy refuse these names of Google's from now on, and only these."""
        self._ask("unreachable", names=names)

    def machine(self, zone: str, **resource: Any) -> None:
        """Have a virtual machine that somebody else has made; ``resource`` is the Compute API's, or a part of it."""
        self._ask("machine", zone=zone, resource=resource)

    def forget_machines(self) -> None:
        """Have nothing in Compute Engine, and pages of Google's size."""
        self._ask("forget_machines")

    def page_size(self, size: int) -> None:
        """How many virtual machines an answer has at most."""
        self._ask("page_size", size=size)

    def cloud(self) -> dict[str, dict]:
        """What is kept: Compute Engine's ``resources`` by path, ``accounts``, ``buckets``, ``policies`` by name."""
        return self._ask("cloud")

    def bucket(self, name: str) -> None:
        self._ask("bucket", name=name)

    def objects(self, bucket: str) -> list[dict]:
        """The objects as Cloud Storage's JSON API shows them: name, size, md5Hash, ..."""
        return self._ask("objects", bucket=bucket)

    def requests(self) -> list[dict]:
        """Every request so far, oldest first.

        Each has host, method, path, query, status, identity (whose token or grant it was) and
        authorized (whether it carried an Authorization header); those to the token endpoint have
        grant, those to the metadata server metadata_flavor, chunks of uploads received.
        """
        return self._ask("requests")

    def forget_requests(self) -> None:
        self._ask("forget_requests")

    def clock(self, offset_seconds: float) -> None:
        """Set Google's clock this much ahead of the real one, so that the machine's seems to be behind."""
        self._ask("clock", offset=offset_seconds)

    @property
    def control(self) -> str:
        """Where it takes what tests ask of it."""
        return machines.docker("port", self.name, str(CONTROL_PORT)).splitlines()[0]

    def _ask(self, method: str, **arguments: Any) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.control}/{method}", json.dumps(arguments).encode(), timeout=30) as answer:
            return json.load(answer)


def alone(name: str) -> None:
    """Start a Google that no machine is beside."""
    Google(name).start(f"{name}-network")


def up(machine: str, others: list[str], buckets: list[str]) -> None:
    """Start the Google of a machine and others, which are then virtual machines there and trust it."""
    google = Google(machine)
    google.start(f"{machine}-network")
    for each in [machine, *others]:
        google.join(each)
        google.trust(each)
    google.vm()
    for bucket in buckets:
        google.bucket(bucket)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "alone"):
        commands.add_parser(name).add_argument("machine")
    commands.choices["up"].add_argument("others", nargs="*")
    commands.choices["up"].add_argument("--bucket", action="append", default=[])
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            up(arguments.machine, arguments.others, arguments.bucket)
        else:
            alone(arguments.machine)
    except machines.SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
