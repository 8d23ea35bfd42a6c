"""What a client does with artifacts: upload files and a folder, list them, read them back, delete one.

Prints ``{"experiment_id", "run_id", "artifact_uri", "files"}``; ``files`` has the MD5 (base64, as Cloud
Storage shows it) of each file that is left, by its path. Fails when anything comes back other than it
was sent.
"""

import base64
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

# The last one is bigger than a chunk of mlflow_artifacts_chunk_mb, so that it goes up in several requests.
SIZES = {"empty.txt": 0, "notes ü.txt": 11, "folder/deep/small.bin": 3000, "folder/large.bin": 20 * 1024 * 1024}

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"  # or a failure would be tried again for minutes
client = MlflowClient()
experiment = client.create_experiment(f"exchange-{secrets.token_hex(4)}")
run = client.create_run(experiment)
sent = {name: secrets.token_bytes(size) for name, size in SIZES.items()}
with tempfile.TemporaryDirectory() as folder:
    for name, content in sent.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    client.log_artifacts(run.info.run_id, folder)
    client.log_artifact(run.info.run_id, str(Path(folder, "folder/deep/small.bin")), "again")

listed = {file.path: file.is_dir for file in client.list_artifacts(run.info.run_id)}
assert listed == {"again": True, "empty.txt": False, "folder": True, "notes ü.txt": False}, listed
with tempfile.TemporaryDirectory() as folder:
    back = Path(client.download_artifacts(run.info.run_id, "", folder))
    found = {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()}
assert found == {**sent, "again/small.bin": sent["folder/deep/small.bin"]}, sorted(found)
get_artifact_repository(run.info.artifact_uri).delete_artifacts("again")
left = {name: base64.b64encode(hashlib.md5(content).digest()).decode() for name, content in sent.items()}
made = {"experiment_id": experiment, "run_id": run.info.run_id, "artifact_uri": run.info.artifact_uri}
print(json.dumps({**made, "files": left}))
