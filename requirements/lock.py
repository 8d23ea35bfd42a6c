"""Lock what the control node, the tests' Google, uv and MLflow need: ``python requirements/lock.py [MLFLOW_VERSION]``.

Without a version it locks the newest tools and uv; with one it writes that version's lock for the
role, valid for every Python from 3.10 on, with a hash for each file and no index address.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "roles" / "mlflow" / "files" / "locks"
GOOGLE = ROOT / "molecule" / "shared" / "google"


def lock(source: Path, target: Path, python: str, made_by: str, constraint: str = "") -> None:
    """Resolve a requirement file, with one more requirement where given, into a universal hash lock."""
    options = ["--universal", "--generate-hashes", "--no-annotate", "--upgrade", "--python-version", python]
    command = ["uv", "pip", "compile", "--quiet", *options, "--custom-compile-command", made_by]
    subprocess.run([*command, str(source), "-", "-o", str(target)], input=constraint, text=True, check=True)
    print(f"Wrote {target.relative_to(ROOT)}.")


def main() -> None:
    if sys.argv[1:]:
        version = sys.argv[1]
        made_by = f"make lock VERSION={version}"
        lock(LOCKS / "packages.in", LOCKS / f"mlflow-{version}.txt", "3.10", made_by, f"mlflow=={version}")
    else:
        lock(LOCKS / "uv.in", LOCKS / "uv.txt", "3.10", "make lock")
        lock(ROOT / "requirements" / "control.in", ROOT / "requirements" / "control.txt", "3.11", "make lock")
        lock(GOOGLE / "requirements.in", GOOGLE / "requirements.txt", "3.11", "make lock")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
