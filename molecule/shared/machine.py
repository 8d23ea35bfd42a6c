"""Containers as machines: the Docker engine, the systemd images, and one container a machine.

    python molecule/shared/machine.py tools                   make .venv, with Ansible and what tests need
    python molecule/shared/machine.py ssh                     have a client for SSH
    python molecule/shared/machine.py image bookworm          build an image if it is missing; see `image`
    python molecule/shared/machine.py start                   start a scenario's machines; its platforms come on stdin
    python molecule/shared/machine.py stop NAME …             remove machines and what was made for them
    python molecule/shared/machine.py up NAME --publish 5001  start a machine
    python molecule/shared/machine.py down NAME               remove it, and the images

Standard library only: `make up` runs it before anything else is installed. Whatever is missing and
can't be made is said in one sentence (SetupError).
"""

import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV_LOCK = ROOT / "roles" / "mlflow" / "files" / "locks" / "uv.txt"
SERVICE = ROOT / "roles" / "mlflow" / "files" / "mlflow_service" / "src"
MOLECULE_BASE = ROOT / ".config" / "molecule" / "config.yml"
REPOSITORY = os.environ.get("MACHINE_IMAGES", "mlflow-machine")  # name of our images; the tag says which
PACKAGES = ["systemd", "systemd-sysv", "dbus", "python3", "ca-certificates"]
CACHE = "mlflow-machine-cache:/var/cache/mlflow-machine"  # a volume with downloaded packages, shared by test machines
MADE_FOR = "mlflow-made-for"  # label of a network or a container; the machine that it is removed with
# What systemd as process 1 wants, and what root of a real machine can do. --privileged would ask
# for more than some engines may give.
RUN_OPTIONS = [
    "--cap-add=SYS_ADMIN",
    "--cap-add=SYS_PTRACE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
]
BOOT_SECONDS = 180
PYTHON_NEEDED = (3, 11)  # by requirements/control.txt
BUILDING = collections.defaultdict(threading.Lock)  # an image that several threads want is made by one of them
CA_BUNDLES = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]
DISTRIBUTION_CAS = "/usr/share/ca-certificates"


class SetupError(Exception):
    """Something that this program can't make by itself; the text is one sentence for a person."""


def run(*command: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run a command and return what it printed; raises SetupError with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check and done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise SetupError(f"`{' '.join(command)}` failed: {said}")
    return done


def docker(*arguments: str, **options) -> str:
    return run("docker", *arguments, **options).stdout.strip()


def apt_install(packages: list[str], purpose: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        wanted = " and ".join(packages)
        raise SetupError(f"{purpose} needs {wanted}: install it, or run this as root on Debian or Ubuntu.")
    print(f"Installing {', '.join(packages)}: {purpose}.", flush=True)
    run("apt-get", "update")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "install", "--yes", "--no-install-recommends", *packages, env=environment)


# The control node's tools


def python_of_tools() -> str:
    """The distribution's Python where Ansible can use it: it is optimized, one that was compiled here often is not.

    Measured with Debian's beside pyenv's: a run of site.yml takes four fifths of the processor's time.
    """
    fits = f"import sys; sys.exit(sys.version_info < {PYTHON_NEEDED})"
    for python in ("/usr/bin/python3", sys.executable):
        is_new = Path(python).exists() and run(python, "-c", fits, check=False).returncode == 0
        if is_new and (makes_environments(python) or os.geteuid() == 0):
            return python
    needed = ".".join(map(str, PYTHON_NEEDED))
    raise SetupError(f"Ansible needs Python {needed} or later here with its module venv, python3 is {sys.executable}.")


def makes_environments(python: str) -> bool:
    """Whether it has all of its module venv, which is a package of its own on Debian."""
    return run(python, "-c", "import ensurepip, venv", check=False).returncode == 0


def make_tools() -> None:
    """Make ``.venv`` from the hash locks."""
    base = python_of_tools()
    if not makes_environments(base):
        apt_install(["python3-venv"], "the virtual environment for Ansible")
    venv = ROOT / ".venv"
    print(f"Making .venv from requirements/control.txt with {base}.", flush=True)
    run(base, "-m", "venv", "--clear", str(venv))
    python = str(venv / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(UV_LOCK))
    uv = [str(venv / "bin" / "uv"), "pip", "install", "--quiet"]
    environment = {**os.environ, "UV_SYSTEM_CERTS": "true"}
    lock = str(ROOT / "requirements" / "control.txt")
    run(*uv, "--python", python, "--require-hashes", "-r", lock, env=environment)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    # A tenth of Ansible's time goes into looking for garbage, of which it makes little.
    (site_packages / "less-garbage-collection.pth").write_text("import gc; gc.set_threshold(100_000)\n")
    # Programs of the service start each other by `python -I`, in tests too, which looks nowhere else.
    (site_packages / "mlflow-service.pth").write_text(f"{SERVICE}\n")
    link = venv / "collections" / "ansible_collections" / "mlops" / "mlflow"  # see ansible.cfg
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT)
    (venv / ".made").touch()


# The engine


def engine_answers() -> bool:
    return shutil.which("docker") is not None and run("docker", "info", check=False).returncode == 0


def ensure_engine() -> None:
    """A Docker engine that answers; installed and started where this is root on Debian or Ubuntu."""
    if engine_answers():
        return
    if os.geteuid() != 0:
        raise SetupError(
            "No Docker engine answers: start it, add yourself to the group docker, or run this as root once."
        )
    if shutil.which("dockerd") is None:
        apt_install(["docker.io", "iptables"], "a machine in a container wants a Docker engine")
    log = Path("/var/log/dockerd-mlflow.log")
    if Path("/run/systemd/system").is_dir():
        run("systemctl", "start", "docker")
    else:
        print("Starting dockerd.", flush=True)
        with log.open("ab") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            subprocess.Popen(["dockerd"], start_new_session=True, **streams)
    deadline = time.monotonic() + 60
    while not engine_answers():
        if time.monotonic() > deadline:
            tail = " ".join(log.read_text().splitlines()[-3:]) if log.exists() else ""
            raise SetupError(f"The Docker engine did not start within 60 s; see {log}. {tail}")
        time.sleep(0.5)  # until it is asked again, no longer than the deadline


# The images


def local_cas() -> dict[str, str]:
    """CA certificates that this machine trusts beyond its distribution's, by a file name for each."""
    bundles = [os.environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES]
    bundle = next((Path(path) for path in bundles if path and Path(path).is_file()), None)
    if bundle is None:
        return {}
    known = {normal(path.read_text()) for path in Path(DISTRIBUTION_CAS).rglob("*.crt")}
    pattern = r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"
    extra = [pem for pem in re.findall(pattern, bundle.read_text(), re.DOTALL) if normal(pem) not in known]
    return {hashlib.sha256(pem.encode()).hexdigest()[:12] + ".crt": pem + "\n" for pem in extra}


def normal(pem: str) -> str:
    return "".join(pem.split())


def image(name: str) -> str:
    """Tag of an image; built when it is missing or what it is made of has changed.

    Args:
        name: Debian's code name, such as ``bookworm``, is a bare machine; with one of KINDS after it,
            such as ``bookworm-installed``, one that site.yml has provisioned.
    """
    ensure_engine()
    suite, _, kind = name.partition("-")
    if kind and kind not in KINDS:
        raise SetupError(f"No image is called {name}; after {suite} comes nothing, or one of {', '.join(KINDS)}.")
    with BUILDING[name]:
        tag = provisioned_image(suite, kind) if kind else bare_image(suite)
        docker("tag", tag, f"{REPOSITORY}:{name}")
    return tag


def bare_image(suite: str) -> str:
    """Made from the image that the environment names, in ``BASE_IMAGE``, ``debian:{suite}``, or by mmdebstrap."""
    base = os.environ.get("BASE_IMAGE", "").replace("{suite}", suite)
    cas = local_cas()
    recipe = [suite, base, PACKAGES, sorted(cas), Path(__file__).with_name("Dockerfile").read_text()]
    tag = f"{REPOSITORY}:{suite}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    if not docker("images", "--quiet", tag):
        print(f"Building {tag}, a bare {base or suite} with systemd.", flush=True)
        build_image(tag, base or import_base(suite), cas)
    return tag


def import_base(suite: str) -> str:
    """An image of the distribution's own packages, with no container registry involved."""
    base = f"{REPOSITORY}:{suite}-base"
    if docker("images", "--quiet", base):
        return base
    if shutil.which("mmdebstrap") is None:
        try:
            apt_install(["mmdebstrap", "debian-archive-keyring"], "an image without a container registry")
        except SetupError as error:
            raise SetupError(f"{error} Or name an image to start from: BASE_IMAGE=debian:bookworm.") from None
    with tempfile.TemporaryDirectory(prefix="mlflow-machine-") as folder:
        tar = f"{folder}/base.tar"
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, tar)
        docker("import", tar, base)
    return base


def build_image(tag: str, base: str, cas: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="mlflow-machine-") as folder:
        shutil.copy(Path(__file__).with_name("Dockerfile"), folder)
        (Path(folder) / "ca").mkdir()
        for name, pem in cas.items():
            (Path(folder) / "ca" / name).write_text(pem)
        arguments = [f"--build-arg=BASE={base}", f"--build-arg=PACKAGES={' '.join(PACKAGES)}"]
        docker("build", "--quiet", "--tag", tag, *arguments, folder, env={**os.environ, "DOCKER_BUILDKIT": "0"})


@dataclass
class Kind:
    """How the machine of an image is provisioned.

    Attributes:
        group: that it is in.
        runs: arguments of each run of site.yml.
        base: kind of the image that it starts from; a bare machine where empty.
    """

    group: str = "mlflow"
    runs: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    base: str = ""


KINDS = {
    "installed": Kind(),
    "installed-postgresql": Kind(runs=[("--extra-vars", "postgresql_install=true")], base="installed"),
    "older": Kind(
        runs=[
            ("--extra-vars", "mlflow_version=3.16.1"),
            ("--extra-vars", "mlflow_version=3.17.0", "--tags", "release"),
            ("--tags", "release"),
        ]
    ),
    "database": Kind(group="postgresql", runs=[("--extra-vars", '{"postgresql_listen_addresses": ["localhost"]}')]),
}


def base_variables() -> dict[str, dict]:
    """What every scenario's inventory begins with, by group."""
    import yaml  # noqa: PLC0415  of the control node's tools, as is the Ansible that provisions

    return yaml.safe_load(MOLECULE_BASE.read_text())["provisioner"]["inventory"]["group_vars"]


def provisioned_image(suite: str, kind: str) -> str:
    wanted = KINDS[kind]
    base = image(f"{suite}-{wanted.base}" if wanted.base else suite)
    content = hashlib.sha256(repr((base, wanted, base_variables())).encode())
    for folder in ("roles", "plugins", "playbooks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and not {"__pycache__", "tests"} & set(path.parts):
                content.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    tag = f"{REPOSITORY}:{suite}-{kind}-{content.hexdigest()[:12]}"
    if not docker("images", "--quiet", tag):
        print(f"Provisioning {tag}, once for all scenarios that do not test that.", flush=True)
        name = f"mlflow-machine-{suite}-{kind}-{os.getpid()}"
        try:
            start(name, base, volumes=[CACHE])
            provision(name, wanted)
            docker("commit", name, tag)
        finally:
            remove(name)
    return tag


def provision(name: str, kind: Kind) -> None:
    """Run site.yml over a machine, as its kind says, with what every scenario's inventory begins with."""
    groups = {group: {"vars": variables} for group, variables in base_variables().items()}
    groups.setdefault(kind.group, {})["hosts"] = {name: {"ansible_connection": "community.docker.docker"}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as inventory:
        inventory.write(json.dumps(groups))
        inventory.flush()
        for arguments in kind.runs:
            run("ansible-playbook", "--inventory", inventory.name, "playbooks/site.yml", *arguments, cwd=ROOT)


# The machines


def start(
    name: str, image_name: str, publish: int | None = None, volumes: list[str] | None = None, network: str = ""
) -> None:
    """Start a machine, or do nothing where it runs, and wait until systemd has booted.

    Args:
        name: of the container.
        image_name: what it starts from, when it does not exist yet.
        publish: TCP port of the container to publish, under the same number, on 127.0.0.1 only.
        volumes: in Docker's notation, ``volume:folder``.
        network: Docker's own where empty; on another one, machines know each other by name.
    """
    state = run("docker", "inspect", "--format", "{{.State.Running}}", name, check=False).stdout.strip()
    if state == "":
        published = [f"127.0.0.1:{publish}:{publish}"] if publish else []
        networks = [{"name": network}] if network else []
        machine = {"name": name, "published_ports": published, "volumes": volumes or [], "networks": networks}
        try:
            launch(machine, image_name)
        except SetupError as error:
            remove(name)
            if "port is already allocated" in str(error) or "address already in use" in str(error):
                raise SetupError(f"Port {publish} on 127.0.0.1 is taken; stop what uses it or choose PORT=…") from None
            raise
    elif state == "false":
        docker("start", name)
    wait_booted(name)


def start_scenario(platforms: list[dict]) -> None:
    """Make the networks of a scenario and start its machines, which are platforms in its molecule.yml.

    Args:
        platforms: one at least, with keys of Molecule's Docker driver: ``name``, ``image`` (see `image`), ``networks``,
            ``docker_networks`` (those that are ``internal``), ``capabilities``, ``tmpfs`` and ``published_ports``
            beyond what every machine has, ``volumes`` in place of the downloads' one, and ``command`` in place of
            systemd.
    """
    described = [network for platform in platforms for network in platform.get("docker_networks", [])]
    internal = {network["name"] for network in described if network.get("internal")}
    networks = [network["name"] for platform in platforms for network in platform.get("networks", [])]
    made_for = f"--label={MADE_FOR}={platforms[0]['name']}"
    for network in dict.fromkeys(networks):
        docker("network", "create", made_for, *(["--internal"] if network in internal else []), network)
    for platform in platforms:
        launch({"volumes": [CACHE], **platform}, image(platform["image"]))
    for platform in platforms:
        if "command" not in platform:
            wait_booted(platform["name"])


def launch(machine: dict, image_name: str) -> None:
    """Start a container with systemd, or with a command of its own; the keys are those of `start_scenario`."""
    networks = machine.get("networks", [])
    options = {
        "cap-add": machine.get("capabilities", []),
        "tmpfs": machine.get("tmpfs", []),
        "volume": machine.get("volumes", []),
        "publish": machine.get("published_ports", []),
        "network": [network["name"] for network in networks],
        "network-alias": [alias for network in networks for alias in network.get("aliases", [])],
    }
    more = [f"--{option}={value}" for option, values in options.items() for value in values]
    name = machine["name"]
    command = machine.get("command", "").split()
    docker("run", "--detach", "--name", name, "--hostname", name, *RUN_OPTIONS, *more, image_name, *command)


def wait_booted(name: str) -> None:
    """A server is part of its machine's boot, and starts slowly where the tests of others run beside it."""
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        # "degraded" is a machine that has booted and has some failed unit: Ansible's matter, not ours
        command = ["docker", "exec", name, "timeout", str(BOOT_SECONDS), "systemctl", "is-system-running", "--wait"]
        said = run(*command, check=False).stdout.strip()
        if said in ("running", "degraded"):
            return
        if time.monotonic() > deadline:
            raise SetupError(f"systemd in {name} did not boot within {BOOT_SECONDS} s (it says: {said or 'nothing'}).")
        time.sleep(0.2)  # where systemd does not take questions yet, it says so at once


def remove(name: str) -> None:
    run("docker", "rm", "--force", "--volumes", name, check=False)


def stop_scenario(names: list[str]) -> None:
    """Remove machines, and the containers and networks that were made for them; nothing of it needs to exist."""
    made_for = [f"--filter=label={MADE_FOR}={name}" for name in names]
    known = docker("ps", "--all", "--format", "{{.Names}}").split()
    found = [name for name in names if name in known]
    for each in made_for:
        found += docker("ps", "--all", "--quiet", each).split()
    if found:
        docker("rm", "--force", "--volumes", *found)
    for each in made_for:
        for network in docker("network", "ls", "--quiet", each).split():
            docker("network", "rm", network)


def down(name: str) -> None:
    """Remove the machine, and our images as far as no other container uses them."""
    if not engine_answers():
        return
    remove(name)
    for tag in docker("images", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).splitlines():
        run("docker", "rmi", tag, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tools")
    commands.add_parser("ssh")
    commands.add_parser("start")
    commands.add_parser("stop").add_argument("names", nargs="+")
    commands.add_parser("image").add_argument("image")
    for name in ("up", "down"):
        commands.add_parser(name).add_argument("name")
    commands.choices["up"].add_argument("--suite", default="bookworm")
    commands.choices["up"].add_argument("--publish", type=int, required=True)
    arguments = parser.parse_args()
    try:
        if arguments.command == "tools":
            make_tools()
        elif arguments.command == "ssh":
            if not shutil.which("ssh"):
                apt_install(["openssh-client"], "a machine that is reached by SSH")
        elif arguments.command == "image":
            print(image(arguments.image))
        elif arguments.command == "start":
            start_scenario(json.load(sys.stdin))
        elif arguments.command == "stop":
            stop_scenario(arguments.names)
        elif arguments.command == "up":
            start(arguments.name, image(arguments.suite), arguments.publish)
        else:
            down(arguments.name)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
