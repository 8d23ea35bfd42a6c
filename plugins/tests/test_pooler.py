"""The way past a pooler to PostgreSQL itself."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from mlflow_service.change.machine import Machine, refuse_unfit_release
from mlflow_service.change.model import ChangeError
from mlflow_service.stores import pooler


@pytest.mark.parametrize(
    ("served", "address", "before", "options"),
    [
        (
            "postgresql+psycopg2://?keepalives_idle=30",
            "db:5433",
            "postgresql+psycopg2://",
            {"keepalives_idle": "30", "host": "db", "port": "5433"},
        ),
        (
            "postgresql+psycopg2://u:p%40@pooler:6432/one?sslmode=require",
            "/var/run/postgresql:5432",
            "postgresql+psycopg2://u:p%40@pooler:6432/one",  # options win over it
            {"sslmode": "require", "host": "/var/run/postgresql", "port": "5432"},
        ),
        (
            "postgresql+psycopg2://u@/one?host=pooler&hostaddr=10.0.0.1&port=6432",
            "::1:5432",
            "postgresql+psycopg2://u@/one",
            {"host": "::1", "port": "5432"},
        ),
    ],
)
def test_leads_to_the_server_itself_and_changes_nothing_else(served, address, before, options):
    environment = {pooler.VARIABLE: address}
    itself = pooler.uri(served, environment)
    assert itself.partition("?")[0] == before
    assert dict(parse_qsl(urlsplit(itself).query)) == options
    assert pooler.uri(itself, environment) == itself


@pytest.mark.parametrize("served", ["postgresql+psycopg2://u@db/one", "sqlite:////var/lib/mlflow/mlflow.db"])
def test_without_a_pooler_an_address_stays_as_it_is(served):
    assert pooler.uri(served, {}) == served
    assert pooler.uri(served, {pooler.VARIABLE: ""}) == served


def test_release_from_before_is_not_gone_back_to_behind_a_pooler(tmp_path):
    machine = Machine(tmp_path, tmp_path / "opt")
    (tmp_path / "mlflow.env").write_text(f'{pooler.VARIABLE}="db:5432"\n')
    package = tmp_path / "opt" / "releases" / "old" / "lib" / "python3.11" / "site-packages" / "mlflow_service"
    package.mkdir(parents=True)
    with pytest.raises(ChangeError, match="before this role knew poolers"):
        refuse_unfit_release(machine, "old")
    for place in (
        "stores/pooler.py",
        "direct.py",
    ):  # where the floors have it, and where releases from before them have it
        (package / place).parent.mkdir(exist_ok=True)
        (package / place).touch()
        refuse_unfit_release(machine, "old")
        (package / place).unlink()
