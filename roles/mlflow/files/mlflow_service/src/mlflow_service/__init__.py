"""What runs MLflow as a systemd service: start, logs, health, backups and changes.

The package is copied into every release beside MLflow, so that code and MLflow change together
and a release stays complete in itself. It needs nothing but what MLflow needs, and python-json-logger.

Its floors, each of which imports only from below (pyproject.toml holds them):

- ``change``    takes up a new release, settings or data as a whole, or goes back
- ``watch``     the deep check of each minute, and what it heals
- ``backup``    makes backups, and brings them back
- ``check``     asks a running server whether it really works
- ``serving``   MLflow's application, its workers, and what is around them
- ``accounts``  MLflow's own accounts, the machine's key, the secrets
- ``stores``    databases and object stores: schema, copies, the way past a pooler, probes
- ``system``    acting as the service, files that no link leads out of, locks, logs, systemd

Commands, ``python -I -m mlflow_service.NAME``. Units, the role and other releases start them, so each keeps its name:
``admin``, ``backup``, ``change``, ``check``, ``keys``, ``preflight``, ``schema``, ``since``, ``users``, ``watch``, and
``mlflow_service`` itself, which starts the server. All but the packages are a few lines that read arguments.
"""
