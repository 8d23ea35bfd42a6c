"""Runs for a person to look at: metrics over many steps and a picture. Prints ``{"experiment", "run"}``, their ids."""

import json
import math

import matplotlib.pyplot as plt
import mlflow
import numpy as np

STEPS = 60

experiment = mlflow.set_experiment("harbour-cranes")
for name, rate in (("small-step", 0.03), ("large-step", 0.08), ("warm-start", 0.05)):
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params({"learning_rate": rate, "layers": 4, "optimizer": "adam"})
        for step in range(STEPS):
            loss = math.exp(-rate * step) + 0.02 * math.sin(step)
            mlflow.log_metrics({"loss": loss, "accuracy": 1 - loss / 1.2}, step=step)
        grid = np.linspace(-3, 3, 200)
        figure, axes = plt.subplots(figsize=(6, 4))
        axes.contourf(grid, grid, np.sin(grid[:, None] * 2) * np.cos(grid) * math.exp(-rate), 20)
        axes.set_title("Error by position")
        mlflow.log_figure(figure, "error.png")
        plt.close(figure)
print(json.dumps({"experiment": experiment.experiment_id, "run": run.info.run_id}))
