"""PostgreSQL on another machine: every password, TLS that is checked, and one sentence for what is wrong.

What else can be wrong with a server, and in which words it is said, is proven in the program's tests.
"""

import json
import os
from pathlib import Path

from fixtures import ROOT

testinfra_hosts = ["ansible://mlflow-postgresql"]

CERTIFICATES = Path(os.environ["CERTIFICATES"])
PASSWORD = "  p@ss:w/rd#%?&x \"$'\\ñ "  # prepare.yml sets it
ENCODED = "%20%20p%40ss%3Aw%2Frd%23%25%3F%26x%20%22%24%27%5C%C3%B1%20"
NAME = "mlflow-postgresql-server"
ELSEWHERE = {
    "mlflow_backend_switch": "keep",
    "postgresql_install": False,
    "mlflow_postgres_host": NAME,
    "mlflow_postgres_database": "outside",
    "mlflow_postgres_user": "outsider",
    "mlflow_postgres_password": PASSWORD,
    "mlflow_postgres_sslmode": "verify-full",
    "mlflow_postgres_ca_file": os.path.relpath(CERTIFICATES / "ca.pem", ROOT),
}
LIMITED = {
    "mlflow_postgres_database": "small",
    "mlflow_postgres_user": "limited",
    "mlflow_postgres_password": "of-little",
}

REFUSED = {
    "wrong password": (
        {"mlflow_postgres_password": "wrong"},
        "it does not accept the password for user outsider; correct",
    ),
    "another account's user": (
        {"mlflow_postgres_host": "", "mlflow_postgres_user": "postgres", "mlflow_postgres_password": ""},
        "over the socket it lets only the system account postgres be user postgres; set mlflow_postgres_user to",
    ),
    "no CA file": (
        {"mlflow_postgres_ca_file": "/nowhere.pem"},
        "mlflow_postgres_ca_file names /nowhere.pem, which is a file neither on the control node nor on the machine",
    ),
    "too few connections": (  # of the user's 12, 4 are for mlflow-admin and the server's main process
        {**LIMITED, "mlflow_workers": 10},
        "PostgreSQL has 8 connections for this server, and 10 workers need 40 at least; raise its max_connections or",
    ),
    "unknown option": (
        {"mlflow_postgres_connection_string": f"postgresql://outsider:{ENCODED}@{NAME}/outside?sslmod=require"},
        "it can't be addressed like this; correct mlflow_postgres_connection_string",
    ),
    "another store with runs": ({"mlflow_backend_switch": "refuse"}, "which holds"),
}


def test_refused_before_anything_is_touched(machine):
    """What test_1_local.py has logged is there to be left behind."""
    before = machine.state()
    run = machine.refuses_each(({**ELSEWHERE, **given}, sentence) for given, sentence in REFUSED.values())
    assert "p@ss" not in run.output.replace("PASSWORD", "") and ENCODED not in run.output
    assert machine.state() == before
    assert machine.is_healthy()


def test_odd_password_and_checked_certificate_serve_clients(machine, server):
    machine.converge(**ELSEWHERE)
    logged = machine.client("log_everything.py")
    assert machine.client("read_run.py", logged["run_id"], logged["experiment"])["status"] == "FINISHED"
    assert int(server.ask("SELECT count(*) FROM runs", "outside")) > 0
    encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'outsider'"
    assert server.ask(encrypted) == "t"
    assert machine.playbook("--extra-vars", json.dumps(ELSEWHERE)).changed == 0
    pid = machine.main_pid()
    server.host.check_output("systemctl restart postgresql")
    assert machine.is_healthy()
    assert machine.main_pid() == pid


def test_connection_string_and_a_certificate_serve_by_as_few_connections_as_the_server_has(machine, server):
    """The string overrides the settings, the certificate takes the place of a password, and the run says what is less."""
    files = {"certificate_file": "client.pem", "key_file": "client.key", "ca_file": "ca.pem"}
    brought = {f"mlflow_postgres_{setting}": str(CERTIFICATES / name) for setting, name in files.items()}
    options = "application_name=from%20the%20string&sslmode=verify-full"
    string = f"postgres://certified@{NAME}:5432/certified?{options}"
    overridden = {"mlflow_postgres_host": "none.invalid", "mlflow_postgres_connection_string": string}
    cut = machine.converge(**{**ELSEWHERE, **overridden, **brought, "mlflow_workers": 2})
    assert "PostgreSQL has 8 connections for this server, not the 80 of mlflow_database_pool_size" in cut.said
    settings = machine.run("cat /etc/mlflow/mlflow.env")
    assert 'POOL_SIZE="1"' in settings and 'MAX_OVERFLOW="1"' in settings
    assert machine.client("log_everything.py")["run_id"]
    names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'certified'"
    assert server.ask(names) == "from the string"
    assert "certified" not in machine.run("systemctl show mlflow.service")
    key = machine.host.file("/etc/mlflow/postgres-key.pem")
    assert (key.mode, key.user, key.group) == (0o640, "root", "mlflow")
