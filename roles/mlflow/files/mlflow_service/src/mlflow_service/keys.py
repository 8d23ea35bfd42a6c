"""Wrap the gateway's secrets by the passphrase in use: ``python -m mlflow_service.keys``, as the service's user."""

from mlflow_service.accounts import passphrases
from mlflow_service.system import logs

if __name__ == "__main__":
    logs.configure()
    passphrases.carry_over()
