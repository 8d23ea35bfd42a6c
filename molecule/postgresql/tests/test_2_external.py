"""PostgreSQL on another machine: every password, TLS that is checked, and one sentence for whatever is wrong."""

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
    "no password": ({"mlflow_postgres_password": ""}, "it wants a password; set mlflow_postgres_password"),
    "no such user": ({"mlflow_postgres_user": "nobody"}, "its pg_hba.conf lets no such user in from this machine"),
    "no such database": (
        {"mlflow_postgres_database": "none"},
        "its pg_hba.conf lets no such user in from this machine",
    ),
    "no such host": (
        {"mlflow_postgres_host": "none.invalid"},
        "its host name none.invalid can't be resolved; correct mlflow_postgres_host",
    ),
    "no server": ({"mlflow_postgres_port": 5499}, "nothing listens at that address; start PostgreSQL there or correct"),
    "no server on the socket": (
        {"mlflow_postgres_host": "", "mlflow_postgres_port": 5499},
        "no PostgreSQL listens on this machine's socket /var/run/postgresql/.s.PGSQL.5499; set postgresql_install: true",
    ),
    "another account's user": (
        {"mlflow_postgres_host": "", "mlflow_postgres_user": "postgres", "mlflow_postgres_password": ""},
        "over the socket it lets only the system account postgres be user postgres; set mlflow_postgres_user to",
    ),
    "without TLS": ({"mlflow_postgres_sslmode": "disable"}, "add a line there, or change mlflow_postgres_sslmode"),
    "certificate of another CA": (
        {"mlflow_postgres_ca_file": ""},
        "its certificate is not from the CA in mlflow_postgres_ca_file",
    ),
    "certificate for another name": (
        {"mlflow_postgres_host": "@address"},
        "set mlflow_postgres_host to a name that the certificate has",
    ),
    "no CA file": (
        {"mlflow_postgres_ca_file": "/nowhere.pem"},
        "mlflow_postgres_ca_file names /nowhere.pem, which is a file neither on the control node nor on the machine",
    ),
    "other encoding": (
        {"mlflow_postgres_database": "latin"},
        "The database latin has the encoding LATIN1, MLflow needs UTF8",
    ),
    "no tables": (
        {"mlflow_postgres_user": "reader", "mlflow_postgres_password": "of-nothing"},
        "User reader may not create tables in the database outside",
    ),
    "too few connections": (  # of the user's 12, 4 are for mlflow-admin and the server's main process
        {**LIMITED, "mlflow_workers": 10},
        "PostgreSQL has 8 connections for this server, and 10 workers need 40 at least; raise its max_connections or",
    ),
    "unknown option": (
        {"mlflow_postgres_connection_string": f"postgresql://outsider:{ENCODED}@{NAME}/outside?sslmod=require"},
        "it can't be addressed like this; correct mlflow_postgres_connection_string",
    ),
    "password with raw characters": (
        {"mlflow_postgres_connection_string": f"postgresql://outsider:p@ss:w/rd@{NAME}/outside"},
        "mlflow_postgres_connection_string can't be read",
    ),
    "another store with runs": (
        {"mlflow_backend_switch": "refuse"},
        "which holds",
    ),
}


def with_address(settings, server):
    """The settings, with the other server's address where `@address` stands."""
    address = server.host.check_output("hostname -I").split()[0]
    return {name: address if value == "@address" else value for name, value in settings.items()}


def test_refused_before_anything_is_touched(machine, server):
    machine.client("log_everything.py")  # so that there is something to leave behind
    before = machine.state()
    run = machine.refuses_each(
        (with_address({**ELSEWHERE, **given}, server), sentence) for given, sentence in REFUSED.values()
    )
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


def test_connection_string_overrides_the_settings_and_a_certificate_takes_the_place_of_a_password(machine, server):
    files = {"certificate_file": "client.pem", "key_file": "client.key", "ca_file": "ca.pem"}
    brought = {f"mlflow_postgres_{setting}": str(CERTIFICATES / name) for setting, name in files.items()}
    options = "application_name=from%20the%20string&sslmode=verify-full"
    string = f"postgres://certified@{NAME}:5432/certified?{options}"
    overridden = {"mlflow_postgres_host": "none.invalid", "mlflow_postgres_connection_string": string}
    machine.converge(**{**ELSEWHERE, **overridden, **brought})
    assert machine.is_healthy()
    names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'certified'"
    assert server.ask(names) == "from the string"
    assert "certified" not in machine.run("systemctl show mlflow.service")
    key = machine.host.file("/etc/mlflow/postgres-key.pem")
    assert (key.mode, key.user, key.group) == (0o640, "root", "mlflow")


def test_few_connections_make_small_pools_and_the_run_says_so(machine):
    cut = machine.converge(**{**ELSEWHERE, **LIMITED, "mlflow_workers": 2})
    assert not machine.host.file("/etc/mlflow/postgres-key.pem").exists  # of the test before
    said = " ".join(cut.output.split())
    assert "PostgreSQL has 8 connections for this server, not the 80 of mlflow_database_pool_size" in said
    settings = machine.run("cat /etc/mlflow/mlflow.env")
    assert 'POOL_SIZE="1"' in settings and 'MAX_OVERFLOW="1"' in settings
    assert machine.client("log_everything.py")["run_id"]
    machine.converge(mlflow_backend_switch="keep")  # the other modules begin on the machine's own server
