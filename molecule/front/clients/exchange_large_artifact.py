"""A large artifact there and back: ``exchange_large_artifact.py MEBIBYTES``. Prints whether it came back the same."""

import hashlib
import json
import secrets
import sys
import tempfile
from pathlib import Path

import mlflow

MEBIBYTE = 1024 * 1024


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


mlflow.set_experiment("large")
with tempfile.TemporaryDirectory() as folder, mlflow.start_run() as run:
    sent = Path(folder) / "large.bin"
    with sent.open("wb") as file:
        for _ in range(int(sys.argv[1])):
            file.write(secrets.token_bytes(MEBIBYTE))
    mlflow.log_artifact(str(sent))
    back = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="large.bin", dst_path=f"{folder}/back"
    )
    same = digest(Path(back)) == digest(sent)
print(json.dumps({"same": same}))
