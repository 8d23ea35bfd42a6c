"""Filters: what systemd, a shell and MLflow read is what was given."""

import fnmatch
import subprocess

import front
import mlflow as filters
import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_change, mlflow_installation, mlflow_stores

ODD = [
    "plain",
    "p@ss:w/rd#%?&x",
    'with "quotes" and $HOME and `ls`',
    "back\\slash\\",
    " spaces ",
    "ñ'",
    "two\nlines",
    "",
]


@pytest.mark.parametrize("value", ODD)
def test_shell_reads_an_environment_file_letter_by_letter(value, tmp_path):
    file = tmp_path / "a.env"
    file.write_text(filters.env_line(value, "NAME") + "\n")
    read = subprocess.run(["sh", "-c", f'. {file}; printf %s "$NAME"'], capture_output=True, text=True, check=True)
    assert read.stdout == value


def test_numbers_and_booleans_are_written_as_text():
    assert filters.env_line(5001, "MLFLOW_PORT") == 'MLFLOW_PORT="5001"'


def test_word_of_a_command_line_is_quoted_for_systemd():
    assert filters.systemd_argument('50% of $HOME "x" \\') == '"50%% of $$HOME \\"x\\" \\\\"'


def accepted(patterns, host):
    """MLflow's own comparison, from mlflow/server/security_utils.py."""
    return any(fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in patterns)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[fd00::5]", "mlflow-service", "a.example.com"])
def test_name_is_accepted_with_and_without_a_port(host):
    patterns = mlflow_installation.allowed_hosts(
        ["localhost", "127.0.0.1", "[::1]", "[fd00::5]", "mlflow-service", "*.example.com"]
    )
    assert accepted(patterns, host)
    assert accepted(patterns, f"{host}:5001")


@pytest.mark.parametrize("host", ["evil.com", "localhost.evil.com", "xlocalhost", ":5001", "::1"])
def test_other_names_are_not_accepted(host):
    assert not accepted(mlflow_installation.allowed_hosts(["localhost", "127.0.0.1", "[::1]"]), host)


def test_name_with_a_port_is_accepted_at_that_port_only():
    patterns = mlflow_installation.allowed_hosts(["a.example.com:8443"])
    assert patterns == ["a.example.com:8443"]


def test_every_name_stands_once():
    assert mlflow_installation.allowed_hosts(["*", "a", "a"]) == ["*", "a", "a:*"]


POOL = {"size": 10, "overflow": 10, "requests": 4}


@pytest.mark.parametrize(
    "available, expected",
    [
        (0, {**POOL, "cut": False}),
        (80, {**POOL, "cut": False}),
        (79, {"size": 10, "overflow": 9, "requests": 4, "cut": True}),
        (16, {"size": 3, "overflow": 1, "requests": 2, "cut": True}),
        (8, {"size": 1, "overflow": 1, "requests": 1, "cut": True}),
    ],
)
def test_pools_of_two_workers_fit_what_the_server_offers(available, expected):
    assert mlflow_stores.connection_pool(POOL, workers=2, engines=2, available=available) == expected


def test_files_come_from_the_control_node_or_the_machine_or_not_at_all():
    wanted = [
        {"path": "/etc/a", "source": "here.json"},
        {"path": "/etc/b", "source": "/srv/there.json"},
        {"path": "/etc/c", "source": ""},
        {"path": "/etc/d", "secret": "text"},
        {"path": "/etc/d", "source": ""},
    ]
    assert filters.brought_files(wanted, {"here.json": "content"}) == {
        "/etc/a": {"secret": "content"},
        "/etc/b": {"copy_of": "/srv/there.json"},
        "/etc/d": {"secret": "text"},
    }


def test_given_secrets_are_written_and_others_made_on_the_machine():
    secrets = [
        {"name": "admin_password", "value": "", "root_only": True},
        {"name": "flask_secret_key", "value": "given"},
        {"name": "kek_passphrase", "value": ""},
    ]
    assert filters.secret_files(secrets, "/etc/mlflow/secrets", "mlflow", ["kek_passphrase"]) == [
        {"path": "/etc/mlflow/secrets/admin-password", "random": 48, "renew": False, "mode": "0600"},
        {"path": "/etc/mlflow/secrets/flask-secret-key", "secret": "given", "group": "mlflow", "mode": "0640"},
        {"path": "/etc/mlflow/secrets/kek-passphrase", "random": 48, "renew": True, "group": "mlflow", "mode": "0640"},
    ]


HOSTS = {
    "own": {},
    "local": {"mlflow_backend_store": "postgresql"},
    "loopback": {"mlflow_backend_store": "postgresql", "mlflow_postgres_host": "127.0.0.1"},
    "a": {"mlflow_backend_store": "postgresql", "mlflow_postgres_host": "db"},
    "b": {"mlflow_backend_store": "postgresql", "mlflow_postgres_connection_string": "postgresql://u:p@db/mlflow"},
    "c": {"mlflow_backend_store": "postgresql", "mlflow_postgres_host": "db", "mlflow_postgres_port": 5433},
    "d": {"mlflow_backend_store": "postgresql", "mlflow_postgres_host": "db", "mlflow_postgres_database": "other"},
    "odd": {
        "mlflow_backend_store": "postgresql",
        "mlflow_postgres_connection_string": "postgresql://u:p@s:w/d@db/mlflow",
    },
    "own pooler": {
        "mlflow_backend_store": "postgresql",
        "mlflow_postgres_host": "127.0.0.1",
        "mlflow_postgres_port": 6432,
        "mlflow_postgres_direct_host": "db2",
    },
    "pooler": {
        "mlflow_backend_store": "postgresql",
        "mlflow_postgres_connection_string": "postgresql://u:p@pooler:6432/mlflow",
        "mlflow_postgres_direct_host": "db2",
        "mlflow_postgres_direct_port": 5432,
    },
}


@pytest.mark.parametrize(
    ("server", "same"),
    [
        ("own", ["own"]),
        ("local", ["local"]),
        ("loopback", ["loopback"]),
        ("odd", ["odd"]),
        ("a", ["a", "b"]),
        ("pooler", ["own pooler", "pooler"]),
    ],
)
def test_servers_share_a_store_where_its_machine_and_name_are_the_same(server, same):
    assert front.same_store(server, HOSTS, HOSTS) == same


def test_server_that_is_to_be_removed_shares_nothing_any_more():
    hosts = {**HOSTS, "a": {**HOSTS["a"], "mlflow_state": "absent"}}
    assert front.same_store("b", hosts, hosts) == ["b"]
    assert front.same_store("a", hosts, hosts) == ["a"]


def test_host_that_the_inventory_leaves_out_is_the_playbooks():
    assert front.same_store("local", HOSTS, ["local", "a"], "db") == ["local", "a"]


def test_secrets_are_read_whatever_is_in_them():
    said = "/etc/mlflow/secrets/kek-passphrase:a:b=c\n/etc/mlflow/secrets/admin-password:x"
    assert filters.secrets_read(said) == {"kek_passphrase": "a:b=c", "admin_password": "x"}
    assert filters.secrets_read("") == {}


@pytest.mark.parametrize(
    ("report", "waits"),
    [
        ({"waits": "stopped"}, "stopped"),
        ({"waits": "given up", "failed": "why"}, "failed"),
        ({"ended": True}, "ended"),
        ({}, ""),
    ],
)
def test_what_a_change_waits_for(report, waits):
    assert mlflow_change.waits({"report": report}) == waits


def test_task_that_was_skipped_waits_for_nothing():
    assert mlflow_change.waits({"skipped": True}) == ""


def test_shared_secret_gives_way_to_a_setting():
    secrets = [{"name": "one_key", "value": ""}, {"name": "other_key", "value": "set"}, {"name": "third", "value": ""}]
    files = filters.secret_files(secrets, "/s", "mlflow", [], {"one_key": "shared", "other_key": "shared"})
    assert [file.get("secret") for file in files] == ["shared", "set", None]


def test_passfile_takes_any_password():
    assert filters.passfile_line("a:b\\c", "replicator") == "*:*:*:replicator:a\\:b\\\\c\n"


ON_DB = {"mlflow_backend_store": "postgresql", "mlflow_postgres_host": "db"}
DATABASE_USERS = {
    "a": ON_DB | {"ansible_host": "10.20.0.5", "mlflow_postgres_password": "one"},
    "b": ON_DB | {"mlflow_auth_enabled": True, "mlflow_workers": 2},
    "socket": ON_DB | {"mlflow_postgres_host": "/var/run/postgresql"},
    "sqlite": {"ansible_host": "10.20.0.7"},
    "own": {"mlflow_backend_store": "postgresql", "postgresql_install": True},
    "elsewhere": {"mlflow_backend_store": "postgresql", "mlflow_postgres_connection_string": "postgresql://x@y/z"},
}


def test_database_gets_what_the_servers_that_use_it_want():
    wanted = front.database_wanted(DATABASE_USERS, DATABASE_USERS | {"db": {}}, ["db"])
    assert wanted["databases"] == [{"name": "mlflow", "owner": "mlflow"}, {"name": "mlflow_auth", "owner": "mlflow"}]
    assert wanted["users"] == [{"name": "mlflow", "password": "one"}]
    assert (wanted["networks"], wanted["unknown"]) == (["10.20.0.5/32"], ["b"])
    assert wanted["connections"] == (4 * 2 * 20 + 4) + (2 * 3 * 20 + 4)
    assert wanted["unnamed"] == []


def test_server_that_does_not_say_where_its_database_is_is_named():
    hostvars = DATABASE_USERS | {"lost": {"mlflow_backend_store": "postgresql", "ansible_host": "10.20.0.9"}}
    assert front.database_wanted(hostvars, hostvars | {"db": {}}, ["db"])["unnamed"] == ["lost"]


def test_password_for_a_database_elsewhere_is_none_for_this_one():
    machines = {"db": {"ansible_host": "10.20.0.2"}, "db2": {"postgresql_listen_addresses": ["localhost", "10.30.0.2"]}}
    hostvars = machines | {
        "a": ON_DB | {"mlflow_postgres_host": "10.20.0.2", "mlflow_postgres_password": "one"},
        "b": ON_DB | {"mlflow_postgres_host": "DB2"},
        "c": ON_DB | {"mlflow_postgres_host": "10.30.0.2"},
        "far": ON_DB | {"mlflow_postgres_host": "db.example.com", "mlflow_postgres_password": "two"},
    }
    wanted = front.database_wanted(["a", "b", "c", "far"], hostvars, machines)
    assert wanted["users"] == [{"name": "mlflow", "password": "one"}]
    assert (wanted["unknown"], wanted["elsewhere"], wanted["disputed"]) == (["a", "b", "c"], ["far"], {})


def test_server_that_may_come_by_a_name_which_the_inventory_lacks_is_not_cut_off():
    near = ON_DB | {"ansible_host": "10.20.0.5", "mlflow_postgres_password": "one"}
    alias = ON_DB | {"ansible_host": "10.20.0.6", "mlflow_postgres_host": "db.lan", "mlflow_postgres_password": "two"}
    alone, both = (front.database_wanted(each, {"db": {}, "a": near, "b": alias}, ["db"]) for each in ("a", "ab"))
    assert both["networks"] == ["10.20.0.5/32", "10.20.0.6/32"]
    assert both["connections"] == 2 * alone["connections"]
    assert both["users"] == alone["users"] == [{"name": "mlflow", "password": "one"}]


def test_two_passwords_for_one_user_are_told_with_the_servers_that_give_them():
    hostvars = {"db": {}} | {each: ON_DB | {"mlflow_postgres_password": each} for each in "ab"} | {"c": ON_DB}
    assert front.database_wanted(["a", "b", "c"], hostvars, ["db"])["disputed"] == {"mlflow": ["a", "b"]}
    hostvars["b"]["mlflow_postgres_user"] = "other"
    assert front.database_wanted(["a", "b", "c"], hostvars, ["db"])["disputed"] == {}


def test_replicas_have_slots_and_come_from_where_the_inventory_says():
    hostvars = {"db-2.example.com": {"ansible_host": "10.20.0.6"}, "DB3": {}}
    assert front.database_replicas(hostvars, hostvars, ["10.20.0.0/24"]) == [
        {"name": "db_2_example_com", "networks": ["10.20.0.6/32"]},
        {"name": "db3", "networks": ["10.20.0.0/24"]},
    ]


def test_pooler_gets_what_the_servers_that_know_a_way_past_it_want():
    pooled = {"mlflow_backend_store": "postgresql", "mlflow_postgres_host": "pooler", "mlflow_postgres_password": "p"}
    hostvars = {
        "a": {**pooled, "ansible_host": "10.20.0.5", "mlflow_postgres_direct_host": "db", "mlflow_workers": 2},
        "direct": {**pooled, "mlflow_postgres_host": "db"},
        "pooler": {"ansible_host": "10.20.0.9"},
        "db": {},
    }
    wanted = front.pooler_wanted(["a", "direct"], hostvars)
    assert wanted["databases"] == [{"name": "mlflow", "host": "db", "port": 5432}]
    assert wanted["users"] == [{"name": "mlflow", "password": "p"}]
    assert (wanted["networks"], wanted["connections"]) == (["10.20.0.5/32"], 2 * 2 * 20 + 4)
    behind = front.database_wanted(["a"], hostvars, ["db"], ["pooler"])
    assert (behind["networks"], behind["connections"]) == (["10.20.0.5/32", "10.20.0.9/32"], 4)
    assert (wanted["pooled"], behind["pooled"]) == (0, 50)
    hostvars["pooler"]["pgbouncer_server_connections"] = 200
    assert front.database_wanted(["a"], hostvars, ["db"], ["pooler"])["pooled"] == 200
