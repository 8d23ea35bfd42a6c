"""The program's tests: ``python molecule/shared/program.py [ARGUMENT OF PYTEST …]``.

They run what a release carries, mlflow_service, with the release's own packages, as root and as the service's account,
beside a PostgreSQL and a container that stands for Google; in a container, and without systemd or Ansible. The image
is made again when the lock or its recipe has changed. The program and its tests are put into the container at its
start, as a release has them: root's, with no link in them. Nothing of it is left behind.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import machine as machines
from fixtures import DEFAULT_VERSION, LOCKS
from google_cloud import Google

ROOT = machines.ROOT
sys.path.append(str(ROOT / "plugins" / "module_utils"))

from service_files import service_files  # noqa: E402  the collection's own

TESTS = ROOT / "roles" / "mlflow" / "files" / "mlflow_service" / "tests"
SHARED = ROOT / "molecule" / "shared"
RECIPE = SHARED / "program" / "Dockerfile"
CONTROL_LOCK = ROOT / "requirements" / "control.txt"
LOCK = LOCKS / f"mlflow-{DEFAULT_VERSION}.txt"
RELEASE = f"{DEFAULT_VERSION}-tested"
SITE_PACKAGES = f"/opt/mlflow/releases/{RELEASE}/lib/python3.11/site-packages"
PYTEST = ("pytest", "iniconfig", "pluggy", "pygments")  # what the release lacks of it
DATABASE_HOST = "database.test"  # the name that the PostgreSQL's certificate has
DISKS = {"/srv/tiny": "512k", "/srv/disk": "64m"}  # which a test may fill; their sizes


def locked(lock: str, names: tuple[str, ...]) -> str:
    """The lines of a hash lock about some packages."""
    found = re.findall(r"^(\S+?)==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    blocks = dict(zip(found, re.findall(r"^\S+?==(?:.*\\\n)*.*\n", lock, re.MULTILINE), strict=True))
    return "".join(blocks[name] for name in names)


def image() -> str:
    """Tag of the image that the tests run in; built when it is missing."""
    base = machines.image("bookworm")
    tools = locked(CONTROL_LOCK.read_text(), PYTEST)
    content = repr((base, RELEASE, RECIPE.read_text(), LOCK.read_text(), tools))
    tag = f"{machines.REPOSITORY}:program-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if not machines.docker("images", "--quiet", tag):
        print(f"Building {tag}, with the packages of {LOCK.name} and a PostgreSQL.", flush=True)
        with tempfile.TemporaryDirectory(prefix="mlflow-machine-") as folder:
            shutil.copy(RECIPE, folder)
            install(LOCK, Path(folder) / "packages")
            (Path(folder) / "pytest.txt").write_text(tools)
            install(Path(folder) / "pytest.txt", Path(folder) / "pytest", "--no-deps")
            arguments = [f"--build-arg=BASE={base}", f"--build-arg=RELEASE={RELEASE}"]
            environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
            machines.docker("build", "--quiet", "--tag", tag, *arguments, folder, env=environment)
    return tag


def install(lock: Path, folder: Path, *options: str) -> None:
    """Install a lock's packages for Debian 12's Python."""
    processor = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    machines.run(
        *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--require-hashes", *options),
        *("--target", str(folder), "--python-version", "3.11", "--python-platform", f"{processor}-manylinux_2_28"),
        *("-r", str(lock)),
        env={**os.environ, "UV_SYSTEM_CERTS": "true"},
    )


def put(name: str, source: Path, target: str, left_out: frozenset[str] | set[str] = frozenset()) -> None:
    """Put what a folder has into one of the container's, as root's, and what links lead to in place of the links."""

    def roots(found: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if left_out & set(Path(found.name).parts):
            return None
        found.uid = found.gid = 0
        found.uname = found.gname = "root"
        found.mode = 0o755 if found.isdir() else 0o644
        return found

    machines.docker("exec", name, "mkdir", "-p", target)
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as archive:
            archive.add(source, ".", filter=roots)
        file.seek(0)
        command = ["docker", "exec", "--interactive", name, "tar", "--extract", f"--directory={target}"]
        subprocess.run(command, stdin=file, check=True)


def start(name: str) -> None:
    """Start the container with all that its tests use."""
    google = Google(name)
    host = f"--add-host={DATABASE_HOST}:127.0.0.1"
    disks = [f"--tmpfs={path}:size={size},mode=755" for path, size in DISKS.items()]
    machines.docker("run", "--detach", "--name", name, "--hostname", name, host, *disks, image())
    google.start(f"{name}-network")
    google.join(name)
    google.trust(name)
    with tempfile.TemporaryDirectory() as folder:
        for path, text in service_files(ROOT / "roles" / "mlflow").items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text + "\n")
        put(name, Path(folder), SITE_PACKAGES)
    put(name, TESTS, "/srv/tests", {"__pycache__"})
    put(name, SHARED, "/srv/shared", {"__pycache__"})
    with tempfile.TemporaryDirectory() as folder:
        machines.run(sys.executable, str(SHARED / "certificates.py"), folder, DATABASE_HOST, "certified")
        put(name, Path(folder), "/srv/certificates")


def run_tests(name: str, arguments: list[str]) -> int:
    """Run pytest in the container; a report that PYTEST_ADDOPTS asks for is brought here."""
    asked = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    reports = [word.partition("=")[2] for word in asked if word.startswith("--junitxml=")]
    variables = {"PYTHONPATH": "/opt/pytest:/srv/shared", "GOOGLE": f"{name}-google", "LANG": "C.UTF-8"}
    options = [f"--env={variable}={value}" for variable, value in variables.items()]
    pytest = ["/opt/mlflow/current/bin/python", "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    command = [*pytest, "--rootdir=/srv/tests", "--junitxml=/srv/report.xml", *(arguments or ["/srv/tests"])]
    status = subprocess.run(["docker", "exec", *options, "--workdir=/srv/tests", name, *command]).returncode
    for report in reports:
        Path(report).write_text(machines.docker("exec", name, "cat", "/srv/report.xml"))
    return status


def main(arguments: list[str]) -> int:
    name = f"mlflow-program-{os.getpid()}"
    try:
        machines.ensure_engine()
        start(name)
        return run_tests(name, arguments)
    except machines.SetupError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        machines.stop_scenario([name])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
