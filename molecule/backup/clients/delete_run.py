"""Make two runs with an artifact each and delete one of them; prints ``{"kept", "deleted"}``, their ids."""

import json

import mlflow
from mlflow import MlflowClient

made = []
for _ in range(2):
    with mlflow.start_run() as run:
        mlflow.log_text("content", "note.txt")
    made.append(run.info.run_id)
MlflowClient().delete_run(made[1])
print(json.dumps({"kept": made[0], "deleted": made[1]}))
