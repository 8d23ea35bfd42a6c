"""Make one thing of each kind that MLflow keeps: ``fill.py NAME CONTENT``, two words to tell it by.

Prints the parameters by which requests name them: ``{"experiment_id", "run_id", "name", …}``.
"""

import json
import sys

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Feedback

word, content = sys.argv[1:]
client = MlflowClient()
experiment_id = client.create_experiment(f"experiment-{word}", tags={"tag": content})
mlflow.set_experiment(experiment_id=experiment_id)
with mlflow.start_run(run_name=f"run-{word}") as run:
    mlflow.log_param("param", content)
    mlflow.log_metric("metric", 1.5)
    mlflow.set_tag("tag", content)
    mlflow.log_text(content, "notes.txt")
    mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"x": [1]}), name=f"input-{word}"))
run_id = run.info.run_id
logged = client.create_logged_model(experiment_id, name=f"logged-{word}", source_run_id=run_id, tags={"tag": content})
name = f"model-{word}"
client.create_registered_model(name, tags={"tag": content}, description=content)
client.create_model_version(name, f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts", run_id, description=content)
client.set_registered_model_alias(name, "alias", "1")
with mlflow.start_span(f"span-{word}") as span:
    span.set_inputs({"question": content})
mlflow.flush_trace_async_logging()
feedback = mlflow.log_feedback(trace_id=span.trace_id, name="quality", value=content)
assert isinstance(feedback, Feedback)
prompt = mlflow.genai.register_prompt(f"prompt-{word}", template=f"{content} {{{{question}}}}")
dataset = mlflow.genai.create_dataset(name=f"dataset-{word}", experiment_id=[experiment_id])
dataset.merge_records([{"inputs": {"question": content}}])
print(
    json.dumps(
        {
            "experiment_id": experiment_id,
            "experiment_name": f"experiment-{word}",
            "run_id": run_id,
            "name": name,
            "alias": "alias",
            "model_id": logged.model_id,
            "trace_id": span.trace_id,
            "assessment_id": feedback.assessment_id,
            "dataset_id": dataset.dataset_id,
            "prompt_name": prompt.name,
        }
    )
)
