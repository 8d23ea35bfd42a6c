"""Two servers behind two fronts: changes and faults under load. Nothing that a client was told is stored gets lost.

The tests build on each other: both servers go 3.16.1 → 3.17.0 (which migrates the schema) → 3.17.2 (which does not).
"""

import json

import machine as machines
import pytest
from conftest import FAULTS, SERVERS
from fixtures import wait_until

OLD, NEIGHBOUR, NEW = "3.16.1", "3.17.0", "3.17.2"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/before-the-upgrades.txt"
# A run without the fronts, which are told to send nobody to a server that changes all the same
WITHOUT_FRONTS = "mlflow"
ALONE = "change | Change over, and go back if the server does not pass"  # said once for each server, in its turn
SECRETS = ("admin-password", "flask-secret-key", "kek-passphrase", "metrics-token")


@pytest.fixture
def converge(fleet):
    """Run site.yml over all machines; it must succeed."""
    return fleet.converge


def test_both_serve_with_the_same_secrets_and_one_does_what_is_periodic(fleet):
    assert fleet.versions() == [OLD, OLD]
    wait_until(lambda: fleet.up() == list(SERVERS), 30, "both servers are up at the front")
    for secret in SECRETS:
        first, second = (server.run(f"cat /etc/mlflow/secrets/{secret}") for server in fleet.servers)
        assert first == second
    timers = [server.host.run("systemctl is-active mlflow-gc.timer").stdout.strip() for server in fleet.servers]
    assert timers == ["active", "inactive"]
    jobs = [server.host.run("grep PERIODIC /etc/mlflow/mlflow.env").stdout.strip() for server in fleet.servers]
    assert jobs == ["", 'MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS="false"']


def test_pools_of_both_fit_into_the_database(fleet):
    offered = int(fleet.sql("SHOW max_connections"))
    wanted = 0
    for server in fleet.servers:
        pools = server.run(". /etc/mlflow/mlflow.env && echo $MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"
                           " $MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW $MLFLOW_WORKERS").split()  # fmt: skip
        size, overflow, workers = map(int, pools)
        wanted += 3 * workers * (size + overflow)  # tracking, registry, accounts
    assert wanted <= offered


def test_one_of_the_fronts_has_the_address_and_the_other_is_ready_for_it(fleet):
    assert len(fleet.holders()) == 1
    for front in fleet.fronts:
        for unit in ("haproxy", "keepalived"):
            assert front.run(f"systemctl is-active {unit}; systemctl is-enabled {unit}").split() == [
                "active",
                "enabled",
            ]


def test_setting_that_the_first_server_can_not_start_with_reaches_no_other(fleet):
    fleet.limit = WITHOUT_FRONTS
    with fleet.clients("setting that the first server can't have") as seen:
        said = fleet.refuses(mlflow_server_options=["--no-such-option"])
    assert seen.failures == []
    assert "did not pass" in said
    assert "The release and the settings that ran before run again" in said
    assert fleet.versions() == [OLD, OLD]
    assert "--no-such-option" not in fleet.servers[1].run("cat /etc/systemd/system/mlflow.service")
    assert fleet.up() == list(SERVERS)


def test_one_server_alone_is_not_brought_to_another_schema(fleet):
    done = fleet.servers[1].playbook("--extra-vars", f"mlflow_version={NEIGHBOUR}")
    assert done.status != 0
    assert "so they change together, and this run is without mlflow-ha-1" in done.said
    assert fleet.versions() == [OLD, OLD]


def test_migration_that_one_server_does_not_pass_is_given_up_by_all(fleet):
    fleet.limit = WITHOUT_FRONTS
    revision, second = fleet.revision(), fleet.servers[1]
    folder = "/etc/systemd/system/mlflow.service.d"
    condition = f"! readlink /opt/mlflow/current | grep --quiet /{NEIGHBOUR}"
    second.host.check_output(
        f"mkdir -p {folder} && printf '[Service]\\nExecStartPre=/bin/sh -c %%s\\n' %s > {folder}/broken.conf",
        f'"{condition}"',
    )
    try:
        with fleet.clients("migration that one server does not pass") as seen:
            said = fleet.refuses(mlflow_version=NEIGHBOUR)
    finally:
        second.run(f"rm -r {folder} && systemctl daemon-reload")
    assert seen.failures == []
    assert "the servers go back together" in said
    assert fleet.revision() == revision
    assert fleet.versions() == [OLD, OLD]
    wait_until(lambda: fleet.up() == list(SERVERS), 30, "both servers are up at the front")


def test_upgrade_that_migrates_is_taken_up_by_all_and_fails_no_request(fleet, converge):
    revision = fleet.revision()
    fleet.ask(f"https://mlflow.test{ARTIFACT}", "PUT", "kept")
    with fleet.clients("upgrade with a migration, together") as seen:
        converge(mlflow_version=NEIGHBOUR)
    assert seen.failures == []
    assert fleet.revision() != revision
    assert fleet.versions() == [NEIGHBOUR, NEIGHBOUR]


def test_upgrade_that_does_not_migrate_goes_from_server_to_server_with_a_setting(fleet, converge):
    fleet.limit = WITHOUT_FRONTS
    with fleet.clients("upgrade without one, server by server") as seen:
        done = converge(mlflow_version=NEW, mlflow_log_level="WARNING")
    assert seen.failures == []
    assert done.output.count(ALONE) == len(SERVERS)
    assert fleet.versions() == [NEW, NEW]
    for server in fleet.servers:
        server.run("grep --quiet WARNING /etc/mlflow/mlflow.env")
        assert fleet.ask(f"http://{server.name}:5001{ARTIFACT}") == "kept"
    assert fleet.up() == list(SERVERS)


def test_killed_server_takes_no_stored_run_with_it(fleet):
    with fleet.clients("MLflow machine killed, and back", "--timeout", "60"):
        machines.docker("kill", SERVERS[1])
        try:
            wait_until(lambda: fleet.up() == [SERVERS[0]], 120, "the front has noticed")
            fleet.wait_stored("the other server works on")
            for front in fleet.fronts:  # which could start, though nobody knows the server's name
                front.run("haproxy -c -f /etc/haproxy/haproxy.cfg")
            fleet.limit = f"all:!{SERVERS[1]}"
            assert fleet.converge(mlflow_version=NEW, mlflow_log_level="ERROR").changed > 0
        finally:
            machines.docker("start", SERVERS[1])
        machines.wait_booted(SERVERS[1])
        wait_until(lambda: fleet.up() == list(SERVERS), 120, "the killed server is back")


def test_database_that_restarts_loses_no_run(fleet):
    with fleet.clients("PostgreSQL restarted"):
        fleet.run("systemctl restart postgresql@15-main")
        fleet.wait_stored("clients go on")


def test_front_that_restarts_gives_the_address_away_and_leaves_no_client_waiting(fleet):
    holder = fleet.front
    with fleet.clients("front restarted", "--timeout", "60") as seen:
        holder.run("systemctl restart haproxy")
        fleet.wait_stored("clients go on")
    assert fleet.front.name != holder.name
    assert [failure for failure in seen.failures if "timed out" in failure] == []  # each was told, or served, at once


def test_front_whose_haproxy_hangs_gives_the_address_away(fleet):
    holder = fleet.front
    with fleet.clients("front's HAProxy hangs", "--timeout", "10"):
        holder.run("systemctl kill --signal=SIGSTOP haproxy")
        try:
            wait_until(lambda: [front.name for front in fleet.holders()] not in ([], [holder.name]), 30, "it has moved")
            fleet.wait_stored("clients go on")
        finally:
            holder.run("systemctl kill --signal=SIGCONT haproxy")


def test_front_that_is_killed_is_followed_by_the_other(fleet):
    holder = fleet.front
    with fleet.clients("front that has the address killed", "--timeout", "10"):
        machines.docker("kill", holder.name)
        wait_until(lambda: len(fleet.holders()) == 1, 30, "the other has the address")
        fleet.wait_stored("clients go on")
    other = fleet.front
    with fleet.clients("killed front back"):
        machines.docker("start", holder.name)
        machines.wait_booted(holder.name)
        wait_until(lambda: holder.host.run("systemctl is-active keepalived").rc == 0, 120, "it is ready again")
    assert fleet.front.name == other.name


def test_every_run_that_any_client_was_told_of_is_there(fleet):
    stored = [run for fault in FAULTS for run in fault.seen.stored]
    assert len(set(stored)) == len(stored) > 0
    assert fleet.lost(stored) == set()


def test_server_that_is_down_is_brought_back_by_the_next_run(fleet, converge):
    fleet.limit = WITHOUT_FRONTS
    fleet.servers[1].run("systemctl stop mlflow.socket mlflow.service")
    wait_until(lambda: fleet.up() == [SERVERS[0]], 120, "the front has noticed")
    done = converge(mlflow_version=NEW, mlflow_log_level="INFO")
    assert done.output.count(ALONE) == len(SERVERS)  # a setting alone, too, goes from server to server
    assert fleet.versions() == [NEW, NEW]
    wait_until(lambda: fleet.up() == list(SERVERS), 30, "both servers are up at the front")


def run_playbook(fleet, name, **settings):
    """Run it over all machines, fronts and database too; it must succeed."""
    given = json.dumps({"mlflow_version": NEW, **settings})
    done = fleet.playbook("--extra-vars", given, playbook=f"playbooks/{name}.yml")
    assert done.status == 0, done.output[-6000:]


def test_backup_is_put_back_by_all_together(fleet):
    names = "SELECT name FROM runs ORDER BY run_uuid"
    before = fleet.sql(names)
    run_playbook(fleet, "backup")
    fleet.limit = f"all:!{SERVERS[0]}"  # as one does while the first server is down
    run_playbook(fleet, "backup")
    fleet.limit = "all"
    assert fleet.servers[1].run("ls /var/backups/mlflow") != ""
    fleet.sql("UPDATE runs SET name = 'renamed since'")
    run_playbook(fleet, "restore", mlflow_backup="latest")
    assert fleet.sql(names) == before
    assert fleet.versions() == [NEW, NEW]
    wait_until(lambda: fleet.up() == list(SERVERS), 30, "both servers are up at the front")


def test_release_of_an_older_schema_is_gone_back_to_by_all_together(fleet):
    """Last, because what was stored since its backup is not in the store then."""
    first, revision = fleet.servers[0], fleet.revision()
    (backup,) = first.run(f"ls /var/backups/mlflow | grep before-{NEIGHBOUR}").split()[-1:]
    run_playbook(fleet, "rollback", mlflow_rollback_to=OLD, mlflow_backup=backup)
    assert fleet.versions() == [OLD, OLD]
    assert fleet.revision() != revision
    wait_until(lambda: fleet.up() == list(SERVERS), 30, "both servers are up at the front")
