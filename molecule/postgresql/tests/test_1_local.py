"""PostgreSQL on the machine itself: no password, and it may stop, start and boot as it likes."""

import json

from fixtures import wait_until

testinfra_hosts = ["ansible://mlflow-postgresql"]

BURST = 128


def test_training_job_gets_back_what_it_logged(machine):
    logged = machine.client("log_everything.py")
    assert machine.client("read_run.py", logged["run_id"], logged["experiment"])["status"] == "FINISHED"


def test_runs_are_in_postgresql(machine, local):
    before = int(local.ask("SELECT count(*) FROM runs", "mlflow"))
    machine.client("log_everything.py")
    assert int(local.ask("SELECT count(*) FROM runs", "mlflow")) > before


def test_no_password_exists(machine, local):
    assert "PGPASSWORD" not in machine.run("cat /etc/mlflow/mlflow.env")
    assert local.ask("SELECT count(*) FROM pg_authid WHERE rolpassword IS NOT NULL") == "0"


def test_other_accounts_of_the_machine_are_not_mlflow(machine):
    asked = machine.host.run("setpriv --reuid=nobody --clear-groups psql --username=mlflow --command='SELECT 1' mlflow")
    assert "Peer authentication failed" in asked.stderr


def test_database_listens_on_loopback_only(machine, local):
    assert local.ask("SHOW listen_addresses") == "localhost"
    addresses = machine.run("hostname -I").split()
    code = "import socket, sys; socket.create_connection((sys.argv[1], 5432), 5)"
    assert [machine.host.run("python3 -c %s %s", code, address).rc for address in addresses] == [1] * len(addresses)


def test_new_cluster_has_checksums_and_utf8(local):
    assert local.ask("SHOW data_checksums") == "on"
    assert local.ask("SHOW server_encoding") == "UTF8"
    assert local.ask("SHOW password_encryption") == "scram-sha-256"


def test_memory_settings_come_from_the_machine(machine, local):
    memory = int(machine.run("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024
    buffers = int(local.ask("SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'shared_buffers'"))
    assert 0.1 < buffers / memory < 0.15
    source = "SELECT sourcefile FROM pg_settings WHERE name = 'shared_buffers'"
    assert local.ask(source).endswith("/conf.d/50-ansible.conf")


def test_database_that_stops_and_starts_needs_no_restart_of_the_server(machine):
    pid, workers = machine.main_pid(), machine.workers()
    machine.run("systemctl stop postgresql")
    try:
        checked = json.loads(machine.host.run("mlflow-check").stdout)
        assert checked["steps"]["health"]["ok"]
        assert not checked["steps"]["database"]["ok"]
    finally:
        machine.run("systemctl start postgresql")
    wait_until(machine.is_healthy, 60, "the server has found the database again")
    assert (machine.main_pid(), machine.workers()) == (pid, workers)


def test_restarted_database_loses_no_connection_that_was_idle(machine):
    machine.run("systemctl restart postgresql")
    assert machine.is_healthy()


def test_boot_starts_the_database_before_the_server(machine):
    machine.reboot()
    wait_until(lambda: machine.host.service("mlflow.service").is_running, 90, "the server runs after the boot")
    assert machine.is_healthy()
    started = "systemctl show --property ActiveEnterTimestampMonotonic --value"
    database = machine.run(f"{started} $(systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1)")
    assert int(database) < int(machine.run(f"{started} mlflow.service"))


def test_server_allows_all_connections_that_the_workers_may_want(machine, local):
    settings = dict(
        line.split("=", 1) for line in machine.run("cat /etc/mlflow/mlflow.env").splitlines() if "=" in line
    )
    settings = {name: value.strip('"') for name, value in settings.items()}
    pool = int(settings["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"]) + int(settings["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"])
    wanted = int(settings["MLFLOW_WORKERS"]) * 2 * pool  # two stores, each with a pool
    allowed = int(local.ask("SHOW max_connections")) - int(local.ask("SHOW superuser_reserved_connections"))
    assert wanted < allowed


def test_many_clients_at_once_are_all_answered(machine):
    assert machine.burst(BURST, "/api/2.0/mlflow/runs/create", {"experiment_id": "0"}) == [200] * BURST


def test_parameters_with_which_the_database_does_not_start_are_taken_back(machine, local):
    said = machine.refuses(postgresql_settings={"max_locks_per_transaction": 2_000_000_000})
    assert "PostgreSQL did not take the new configuration, so that the one from before is in use again" in said
    assert local.ask("SHOW max_locks_per_transaction") == "64"
    wait_until(machine.is_healthy, 60, "the server has found the database again")
    checked = machine.playbook("--check", "--diff")
    assert (checked.status, checked.changed) == (0, 0)


def test_larger_pools_get_more_connections(machine, local):
    before = int(local.ask("SHOW max_connections"))
    machine.converge(mlflow_database_pool_size=60)
    assert int(local.ask("SHOW max_connections")) > before
    assert machine.is_healthy()
