"""What a pooler before PostgreSQL promises: many clients, few connections, and nobody meets what another has left behind."""

import json

from fixtures import wait_until
from secrecy import files_with, watched_command_lines

CLIENTS = 200
CEILING = 6
PASSWORD = "of this: \"scenario\\too'"


def test_two_hundred_clients_share_few_connections(fleet):
    fleet.client("log_everything.py")
    with fleet.counted() as seen:
        for _ in range(3):
            assert fleet.burst(CLIENTS, "/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}) == [200] * CLIENTS
    assert seen.to_postgres <= CEILING
    assert seen.to_pooler > CEILING


def test_backup_meets_no_client_and_no_client_meets_it(fleet):
    """pg_dump empties the search path of its session; through the pooler, the next client would find no table there."""
    before = fleet.runs()
    with fleet.traffic(8) as seen:
        for _ in range(2):
            done = fleet.playbook(playbook="playbooks/backup.yml")
            assert done.status == 0, done.output[-4000:]
    assert seen.failures == []
    assert fleet.runs() - before == seen.created
    assert "does not exist" not in fleet.database.run("cat /var/log/postgresql/*.log")


def test_changed_ceiling_is_taken_up_while_clients_stay(fleet):
    started = fleet.database.run("systemctl show --property MainPID pgbouncer")
    with fleet.traffic(8) as seen:
        assert fleet.converge(pgbouncer_server_connections=CEILING - 1).changed > 0
        assert fleet.converge().changed > 0
    assert seen.failures == []
    assert fleet.database.run("systemctl show --property MainPID pgbouncer") == started


def test_settings_that_it_can_not_start_with_are_taken_back(fleet):
    before = fleet.database.run("cat /etc/pgbouncer/*.ini")
    said = fleet.refuses(pgbouncer_listen_addresses=["198.51.100.7"])
    assert "PgBouncer did not take the new configuration, so that the one from before is in use again" in said
    assert fleet.database.run("cat /etc/pgbouncer/*.ini") == before
    assert fleet.is_healthy()


def test_pooler_that_restarts_loses_no_run_and_the_server_recovers_by_itself(fleet):
    before = fleet.runs()
    with fleet.traffic(8) as seen:
        fleet.database.run("systemctl restart pgbouncer")
        wait_until(lambda: fleet.runs() > before + 20, 120, "clients go on")
    assert seen.created > 0
    assert fleet.runs() - before >= seen.created
    assert fleet.is_healthy()


def test_pooler_without_a_way_past_it_is_refused(fleet):
    before = fleet.state()
    done = fleet.playbook("--extra-vars", json.dumps({"mlflow_postgres_direct_host": ""}), "--limit", fleet.name)
    assert done.status != 0
    assert "leads to a pooler that hands connections out anew after each transaction" in done.said
    assert "name PostgreSQL itself in mlflow_postgres_direct_host" in done.said
    assert fleet.state() == before


def test_password_shows_nowhere(fleet):
    with watched_command_lines(fleet.database.name, [PASSWORD], control_node=True) as seen:
        done = fleet.playbook("-vvv", "--diff")
    assert done.changed == 0
    assert seen == []
    assert PASSWORD not in done.output
    for machine in (fleet, fleet.database):
        assert machine.host.run("journalctl --no-pager --output=cat | grep -F -c %s", PASSWORD).stdout.strip() == "0"
        assert files_with(machine.name, [PASSWORD], "-perm -o=r") == []
