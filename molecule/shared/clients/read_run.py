"""Read back a run of log_everything.py: ``read_run.py RUN_ID EXPERIMENT``."""

import json
import sys

import mlflow
from mlflow import MlflowClient

run_id, experiment = sys.argv[1:]
run = MlflowClient().get_run(run_id)
assert run.data.params["kind"] == "forest"
assert abs(mlflow.sklearn.load_model(f"models:/{experiment}/1").predict([[100]])[0] - 301) < 1e-6
print(json.dumps({"status": run.info.status}))
