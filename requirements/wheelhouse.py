"""Fill a folder with the wheels of a release, for machines without internet: ``python requirements/wheelhouse.py``.

The role installs from it (``mlflow_wheelhouse``). What is there already and has the lock's hash is
not fetched again, so a run that was interrupted can be run again. pip downloads, but takes markers
for the Python that it runs on; so which packages are needed is decided here, as the role decides it.
"""

import argparse
import hashlib
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "roles" / "mlflow" / "files" / "locks"
PYTHONS = ["3.11", "3.13"]  # of Debian 12 and 13
sys.path.append(str(ROOT / "plugins" / "module_utils"))

import wheels  # noqa: E402  the role's own


class Failure(Exception):
    """Something that a person has to change; the text is one sentence."""


def resolved(extra: list[str], lock: Path, python: str, machine: str) -> str:
    """A lock with hashes for packages on top of another lock, none of whose versions changes."""
    options = [
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--only-binary",
        ":all:",
        "--constraints",
        str(lock),
    ]
    there = ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_28"]
    done = subprocess.run(
        ["uv", "pip", "compile", "--quiet", *options, *there, "-"],
        input="\n".join(extra),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        reason = " ".join(re.sub("[×╰─▶]", "", done.stderr).split())
        raise Failure(f"{' '.join(extra)} can't be had beside {lock.name}: {reason}")
    return done.stdout


def remove_damaged(folder: Path, lock: str, names: list[str]) -> None:
    """Remove the wheels whose hash the lock does not name."""
    hashes = set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    for name in names:
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() not in hashes:
                (folder / name).unlink()


def download(folder: Path, lock: str, wanted: list[str], python: str, machine: str) -> None:
    """Have pip fetch those packages of the lock that are wanted (name==version)."""
    lines = [
        f"{package.name}{package.specifier} {hashes}\n"
        for package, hashes in wheels.locked(lock)
        if package.name + str(package.specifier) in wanted
    ]
    platforms = [f"--platform={name}" for name in wheels.wheel_platforms(machine)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(lines)
        file.flush()
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", *options, f"--python-version={python}", *platforms),
                *("--dest", str(folder), "--requirement", file.name),
            ],
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = said[-1] if said else "\n".join(done.stderr.strip().splitlines()[-5:])
        raise Failure(f"A wheel for Python {python} on {machine} was not to be had: {reason}")


def found(folder: Path, lock: str, python: str, machine: str) -> dict[str, list]:
    """What the folder has of the lock by now, and lacks."""
    return wheels.wheels(lock, (file.name for file in folder.iterdir()), python, machine)


def fill(folder: Path, lock: Path, pythons: list[str], machine: str, extra: list[str]) -> list[Path]:
    """Fetch what the folder lacks; returns all wheels that the lock and the extra packages need."""
    folder.mkdir(parents=True, exist_ok=True)
    needed: set[str] = set()
    for python in pythons:
        text = lock.read_text() + "\n" + (LOCKS / "uv.txt").read_text()
        if extra:
            text += "\n" + resolved(extra, lock, python, machine)
        remove_damaged(folder, text, found(folder, text, python, machine)["files"])
        if missing := found(folder, text, python, machine)["missing"]:
            download(folder, text, missing, python, machine)
        there = found(folder, text, python, machine)
        if there["missing"]:
            raise Failure(f"{folder} has no wheel of {there['missing'][0]} for Python {python} on {machine}.")
        needed.update(there["files"])
    return [folder / name for name in needed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "files" / "wheels")
    parser.add_argument("--version", default="3.17.2", help="of MLflow, one that the role has a lock for")
    parser.add_argument("--requirements", type=Path, help="a lock of your own (mlflow_requirements_file)")
    parser.add_argument("--extra", nargs="*", default=[], help="mlflow_extra_packages, such as boto3==1.40.0")
    parser.add_argument("--python", nargs="*", help=f"of the machines; without it {' and '.join(PYTHONS)}")
    parser.add_argument("--arch", default=platform.machine(), help="of the machines; without it this one's")
    given = parser.parse_args()
    pythons = given.python or PYTHONS
    lock = given.requirements or LOCKS / f"mlflow-{given.version}.txt"
    if not lock.is_file():
        raise Failure(f"{lock} is not there; `make lock VERSION={given.version}` makes a lock.")
    if wrong := [python for python in pythons if not re.fullmatch(r"3\.\d+", python)]:
        raise Failure(f"PYTHON has {wrong[0]}; a version is written as 3.11.")
    if given.arch not in ("x86_64", "aarch64"):
        raise Failure(f"ARCH is {given.arch}; it is x86_64 or aarch64.")
    filled = fill(given.folder, lock, pythons, given.arch, given.extra)
    size = sum(file.stat().st_size for file in filled) // 1_000_000
    what = ", ".join([f"{lock.stem} and uv", *given.extra])
    whose = f"Python {' and '.join(pythons)} on {given.arch}"
    print(f"{given.folder} has {len(filled)} wheels, {size} MB: {what}, for {whose}.")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(str(failure))
