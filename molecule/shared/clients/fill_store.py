"""Fill a store with something of every kind that a client can make, odd values among them.

Prints ``{"experiments", "runs", "registered_models", "traces"}``, how many of each it has made. Can be
run again: every name carries a random part.
"""

import json
import math
import secrets

import mlflow
import mlflow.genai
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Metric, Param, RunTag
from mlflow.pyfunc import PythonModel

ODD_TEXTS = {
    "empty": "",
    "unicode": "Größe, 温度, עברית",
    "emoji": "🚀👩‍🔬",
    "quotes": 'it\'s "quoted" \\ and\ttabbed\nin two lines \\N',
    "long": "x" * 5000,
}
ODD_NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.1 + 0.2, -0.0, 2.0**53 + 2]
STEPS = 300

part = secrets.token_hex(4)
client = MlflowClient()
made = dict.fromkeys(["experiments", "runs", "registered_models", "traces"], 0)


class Doubled(PythonModel):
    """The smallest model there is."""

    def predict(self, model_input: list[float]) -> list[float]:
        return [2 * value for value in model_input]


def count(kind: str, number: int = 1) -> None:
    made[kind] += number


def experiments() -> str:
    """Three experiments, one of them deleted; returns the id of the first."""
    ids = [client.create_experiment(f"fill {part} {name}") for name in ("one", "zwei 🧪", "deleted")]
    for key, value in ODD_TEXTS.items():
        client.set_experiment_tag(ids[0], key, value)
    client.delete_experiment(ids[2])
    count("experiments", 3)
    return ids[0]


def runs(experiment: str) -> str:
    """Runs in every state, nested ones among them; returns the id of the parent."""
    parent = client.create_run(experiment, run_name="parent").info.run_id
    client.log_batch(
        parent,
        params=[Param(key, value) for key, value in ODD_TEXTS.items()],
        tags=[RunTag(key, value) for key, value in ODD_TEXTS.items()],
        metrics=[Metric("odd", value, 1000 + step, step) for step, value in enumerate(ODD_NUMBERS)]
        + [Metric("steps", step / 7, 1_700_000_000_000 + step, step) for step in range(STEPS)],
    )
    client.log_metric(parent, "a name/with: all. of_it-1", -0.5, timestamp=1, step=-1)
    for status in ("FINISHED", "FAILED", "KILLED", "RUNNING"):
        child = client.create_run(experiment, run_name=status, tags={"mlflow.parentRunId": parent}).info.run_id
        client.log_metric(child, "score", len(status))
        if status != "RUNNING":
            client.set_terminated(child, status)
    client.delete_run(child)
    client.set_terminated(parent)
    count("runs", 5)
    return parent


def inputs_and_model(experiment: str) -> None:
    """A run with a dataset as its input, artifacts, and a model that is logged and registered."""
    name = f"model-{part}"
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run(run_name="with a model") as run:
        frame = pd.DataFrame({"x": [1.0, 2.5, None], "text": ["a", "", "ü"]})
        mlflow.log_input(mlflow.data.from_pandas(frame, name="frame"), context="training", tags={"split": "🧪"})
        mlflow.log_text("Grüße\n", "notes/note.txt")
        logged = mlflow.pyfunc.log_model(
            name="doubled", python_model=Doubled(), registered_model_name=name, pip_requirements=[], params={"a": "1"}
        )
        mlflow.log_metric("accuracy", 0.75, model_id=logged.model_id)
    client.set_logged_model_tags(logged.model_id, {"odd": ODD_TEXTS["emoji"]})
    client.create_logged_model(experiment, name="pending", params={"b": ""}, tags={"c": "ü"})
    client.create_model_version(name, f"runs:/{run.info.run_id}/notes", run.info.run_id, description="second")
    client.update_registered_model(name, "A description 📄")
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_tag(name, "team", ODD_TEXTS["unicode"])
    client.set_model_version_tag(name, "2", "checked", "")
    client.create_registered_model(f"empty-{part}")
    count("runs")
    count("registered_models", 2)


def traces(experiment: str) -> None:
    """Traces with spans, one that failed, with feedback and an expectation."""
    source = AssessmentSource(source_type="HUMAN", source_id="person@example.org")
    for number in range(3):
        root = client.start_trace(f"trace {number} 🚀", inputs={"question": "¿?"}, experiment_id=experiment)
        child = client.start_span("look", trace_id=root.trace_id, parent_id=root.span_id, inputs={"n": number})
        client.end_span(root.trace_id, child.span_id, outputs=[1, None, "ü"], attributes={"model": "none"})
        client.end_trace(root.trace_id, outputs={"answer": "!"}, status="ERROR" if number == 2 else "OK")
        mlflow.flush_trace_async_logging()
        client.set_trace_tag(root.trace_id, "odd", ODD_TEXTS["emoji"])
        mlflow.log_feedback(
            trace_id=root.trace_id,
            name="good",
            value=number > 0,
            source=source,
            rationale="because",
            metadata={"a": "b"},
        )
        mlflow.log_feedback(trace_id=root.trace_id, name="failed", error=ValueError("no"), source=source)
        mlflow.log_expectation(trace_id=root.trace_id, name="answer", value={"text": "ü"}, source=source)
    count("traces", 3)


def prompts_and_datasets(experiment: str) -> None:
    """A prompt with two versions and an alias, and an evaluation dataset."""
    name = f"prompt-{part}"
    mlflow.genai.register_prompt(name, "Say {{word}}", commit_message="first", tags={"kind": "ü"})
    mlflow.genai.register_prompt(name, [{"role": "user", "content": "Shout {{word}} 🚀"}])
    mlflow.genai.set_prompt_alias(name, "production", 2)
    dataset = mlflow.genai.create_dataset(f"dataset-{part}", experiment_id=experiment, tags={"kind": "ü"})
    dataset.merge_records(
        [{"inputs": {"question": "¿?", "number": 1.0, "nothing": None}, "expectations": {"answer": "🚀"}}]
    )
    count("registered_models")  # which is what a prompt is


def main() -> None:
    experiment = experiments()
    runs(experiment)
    inputs_and_model(experiment)
    traces(experiment)
    prompts_and_datasets(experiment)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
