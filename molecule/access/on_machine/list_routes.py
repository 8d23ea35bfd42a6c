"""Print every route of the installed release, ``[[method, path], …]``, from its own tables: FastAPI's and Flask's.

Runs with the release's Python, on a database of its own that is gone afterwards.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    config = Path(folder, "basic-auth.ini")
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n"
    )
    os.environ |= {
        "HOME": folder,
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "for this process only",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this process only",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    from mlflow.server import auth

    application = auth.create_app()


def every(routes: Iterable) -> Iterator:
    """FastAPI's routes, those of included routers among them."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            yield from route.effective_route_contexts()
        else:
            yield route


found = {
    (method, route.path) for route in every(application.routes) for method in getattr(route, "methods", None) or []
}
found |= {(method, rule.rule) for rule in auth.app.url_map.iter_rules() for method in rule.methods}
print(json.dumps(sorted(found)))
