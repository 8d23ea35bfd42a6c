"""Upload one artifact, made on the fly, and read it back: ``exchange_large_artifact.py MIB``.

Prints ``{"bytes"}``; fails when what comes back is not what was sent. No two of its blocks are the same,
so a chunk in a wrong place is noticed.
"""

import hashlib
import json
import os
import secrets
import sys
import tempfile
from pathlib import Path

from mlflow import MlflowClient

BLOCK = 1024 * 1024


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"  # or a failure would be tried again for minutes
client = MlflowClient()
run = client.create_run("0")
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "weights.bin")
    noise = secrets.token_bytes(BLOCK - 8)
    with file.open("wb") as writing:
        for number in range(int(sys.argv[1])):
            writing.write(number.to_bytes(8))
            writing.write(noise)
    sent, size = digest(file), file.stat().st_size
    client.log_artifact(run.info.run_id, str(file))
    file.unlink()
    assert digest(Path(client.download_artifacts(run.info.run_id, file.name, folder))) == sent
print(json.dumps({"bytes": size}))
