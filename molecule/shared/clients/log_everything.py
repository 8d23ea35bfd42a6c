"""What a training job does: params, metrics, nested runs, a 20 MB artifact, a registered model; all read back.

Prints ``{"run_id", "experiment"}``; fails when anything comes back other than it was sent.
"""

import json
import secrets
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

ARTIFACT_BYTES = 20 * 1024 * 1024

name = f"promise-{secrets.token_hex(4)}"
client = MlflowClient()
experiment = mlflow.set_experiment(name)
content = secrets.token_bytes(ARTIFACT_BYTES)
with tempfile.TemporaryDirectory() as folder:
    weights = Path(folder) / "weights.bin"
    weights.write_bytes(content)
    with mlflow.start_run(run_name="parent") as parent:
        mlflow.log_params({"depth": 7, "kind": "forest"})
        for step in range(20):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.set_tag("stage", "test")
        mlflow.log_artifact(str(weights), "files")
        for number in range(3):
            with mlflow.start_run(run_name=f"child-{number}", nested=True):
                mlflow.log_metric("score", number)
        features = np.arange(10).reshape(-1, 1)
        model = LinearRegression().fit(features, 3 * features.ravel() + 1)
        # Named, because MLflow would find them out by loading the model in another process.
        mlflow.sklearn.log_model(model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"])

run = client.get_run(parent.info.run_id)
assert run.data.params == {"depth": "7", "kind": "forest"}, run.data.params
assert run.data.tags["stage"] == "test"
history = client.get_metric_history(run.info.run_id, "loss")
assert [round(metric.value, 6) for metric in history] == [round(1 / (step + 1), 6) for step in range(20)]
children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
assert {child.data.metrics["score"] for child in children} == {0.0, 1.0, 2.0}
with tempfile.TemporaryDirectory() as folder:
    path = client.download_artifacts(run.info.run_id, "files/weights.bin", folder)
    assert Path(path).read_bytes() == content, "the artifact came back with another content"
loaded = mlflow.sklearn.load_model(f"models:/{name}/1")
assert abs(loaded.predict([[100]])[0] - 301) < 1e-6
print(json.dumps({"run_id": run.info.run_id, "experiment": name}))
