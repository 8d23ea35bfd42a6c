"""Print all that a client can read of a store as one line of JSON, the same for two stores that hold the same.

Runs of `Machine.traffic` are left out: they go on while a store is read.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlflow
import mlflow.genai
from mlflow import MlflowClient
from mlflow.entities import ViewType

client = MlflowClient()


def every(search: Callable[..., Any], **arguments: Any) -> list:
    """All pages of a search."""
    found, token = [], None
    while True:
        page = search(**arguments, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def plain(thing: Any) -> Any:
    """An entity as JSON values; numbers as Python writes them, so that NaN equals NaN."""
    if thing is None or isinstance(thing, str | int):
        return thing
    if isinstance(thing, float):
        return repr(thing)
    if isinstance(thing, Mapping):
        return {str(name): plain(value) for name, value in thing.items()}
    for name in ("to_dictionary", "to_dict"):
        if hasattr(thing, name):
            return plain(getattr(thing, name)())
    if isinstance(thing, list) or (isinstance(thing, Iterable) and not hasattr(thing, "__dict__")):
        return sorted((plain(one) for one in thing), key=lambda one: json.dumps(one, sort_keys=True))
    return {name: plain(value) for name, value in vars(thing).items() if "store" not in name}


def run(found: Any) -> dict:
    """A run with each step of each metric, and its artifacts by name."""
    history = {key: client.get_metric_history(found.info.run_id, key) for key in found.data.metrics}
    return plain(
        {
            "info": found.info,
            "params": found.data.params,
            "tags": found.data.tags,
            "metrics": history,
            "latest": found.data.metrics,
            "inputs": found.inputs,
            "outputs": found.outputs,
            "artifacts": [file.path for file in client.list_artifacts(found.info.run_id)],
        }
    )


def prompt_versions(name: str) -> list:
    """Each version asked for by itself: only such an answer has its aliases."""
    found = every(client.search_prompt_versions, name=name)
    return [client.get_prompt_version(name, str(one.version)) for one in found]


def store() -> dict:
    """Everything, by kind."""
    experiments = every(client.search_experiments, view_type=ViewType.ALL)
    ids = sorted(experiment.experiment_id for experiment in experiments)
    active = sorted(one.experiment_id for one in experiments if one.lifecycle_stage == "active")
    others = "attributes.run_name != 'traffic'"
    runs = every(client.search_runs, experiment_ids=ids, run_view_type=ViewType.ALL, filter_string=others)
    models = every(client.search_registered_models)
    versions = every(client.search_model_versions)
    prompts = every(client.search_prompts)
    datasets = mlflow.genai.search_datasets(experiment_ids=active)
    return {
        "experiments": plain(experiments),
        "runs": [run(one) for one in sorted(runs, key=lambda one: one.info.run_id)],
        "logged_models": plain(every(client.search_logged_models, experiment_ids=active)),
        "registered_models": plain(models),
        "model_versions": plain(versions),
        "traces": plain(every(client.search_traces, locations=active)),
        "prompts": plain(prompts),
        "prompt_versions": plain([prompt_versions(one.name) for one in prompts]),
        "datasets": plain([{"dataset": one.to_dict()} for one in datasets]),
    }


if __name__ == "__main__":
    print(json.dumps(store(), sort_keys=True))
