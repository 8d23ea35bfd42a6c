"""What a PostgreSQL of its own and its replica promise. The tests build on each other: replicas are not waited for at first."""

import threading

import machine as machines
from conftest import DATA, PRIMARY, REPLICA
from fixtures import wait_until
from secrecy import watched_command_lines

DATABASES = "postgresql"  # a run without the server, to which waiting for replicas is no setting
PASSWORD = "of this: scenario\\too"
TABLES = ("experiments", "runs", "metrics", "latest_metrics", "params", "tags")


def test_searches_go_to_the_replica(fleet):
    fleet.create_run()
    fleet.wait_same()
    before = fleet.replica.scans(), fleet.primary.scans()
    for _ in range(20):
        assert fleet.ask("runs/search", {"experiment_ids": ["0"]})[0] == 200
    # PostgreSQL counts a second late: what was done before may still be added to the primary's.
    wait_until(lambda: fleet.replica.scans() >= before[0] + 20, 30, "the replica was searched")
    assert fleet.primary.scans() < before[1] + 20


def test_replica_takes_no_write_and_the_primary_knows_it(fleet):
    assert fleet.replica.streams()
    assert fleet.replica.sql("SELECT pg_is_in_recovery()") == "t"
    assert fleet.primary.sql("SELECT slot_name, active, wal_status FROM pg_replication_slots") == (
        "mlflow_replica_2|t|reserved"
    )
    assert fleet.primary.sql("SHOW max_slot_wal_keep_size") == "4GB"
    connections = [int(each.sql("SHOW max_connections")) for each in (fleet.primary, fleet.replica)]
    assert connections[0] == connections[1]


def test_replica_that_lags_shows_what_was_before_and_then_what_is(fleet):
    """MLflow asks the replica even right after a write. Whoever can't have that has replicas waited for, as below."""
    fleet.wait_same()
    fleet.replica.sql("SELECT pg_wal_replay_pause()")
    try:
        written = fleet.create_run()
        assert fleet.ask(f"runs/get?run_id={written}")[0] == 404
    finally:
        fleet.replica.sql("SELECT pg_wal_replay_resume()")
    wait_until(lambda: fleet.ask(f"runs/get?run_id={written}")[0] == 200, 30, "the replica shows the run")


def test_what_a_replica_that_is_waited_for_has_not_got_is_not_said_to_be_stored(fleet):
    assert fleet.settle(DATABASES, postgresql_replicas_synchronous=True).changed > 0
    logged = fleet.server.client("log_everything.py")  # and reads right after it has written
    assert fleet.server.client("read_run.py", logged["run_id"], logged["experiment"])["status"] == "FINISHED"
    for _ in range(20):
        assert fleet.ask(f"runs/get?run_id={fleet.create_run()}")[0] == 200
    fleet.replica.sql("SELECT pg_wal_replay_pause()")
    written: list[str] = []
    writer = threading.Thread(target=lambda: written.append(fleet.create_run(120)))
    try:
        writer.start()
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        wait_until(lambda: fleet.primary.sql(waiting) == "t", 30, "the write waits for the replica")
        assert written == []
    finally:
        fleet.replica.sql("SELECT pg_wal_replay_resume()")
        writer.join()
    assert fleet.ask(f"runs/get?run_id={written[0]}")[0] == 200
    assert fleet.settle(DATABASES).changed > 0  # replicas are not waited for again
    assert fleet.settle().changed == 0


def test_server_recovers_by_itself_from_a_replica_that_was_away(fleet):
    before = int(fleet.primary.sql("SELECT count(*) FROM runs"))
    fleet.replica.run(f"systemctl stop {fleet.replica.unit}")
    try:
        status, said = fleet.ask("runs/search", {"experiment_ids": ["0"]})
        assert status >= 500, said
    finally:
        fleet.replica.run(f"systemctl start {fleet.replica.unit}")
    wait_until(lambda: fleet.ask("runs/search", {"experiment_ids": ["0"]})[0] == 200, 60, "searches are answered")
    wait_until(fleet.replica.streams, 60, "the replica follows")
    assert fleet.server.is_healthy()
    assert int(fleet.primary.sql("SELECT count(*) FROM runs")) == before


def test_base_backup_that_loses_its_machine_leaves_the_replica_and_the_next_one_is_whole(fleet):
    code = f"""
import glob, os, signal, time
while True:
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            if open(path).read() == "pg_basebackup\\n" and os.path.exists("{DATA}.ansible-copy/backup_label"):
                os.kill(int(path.split("/")[2]), signal.SIGSTOP)
                raise SystemExit
        except OSError:
            pass
    time.sleep(0.001)  # the copy of an empty database is over soon
"""
    rebuild = ("--extra-vars", f"postgresql_replica_rebuild={REPLICA}", "-vvv", "--diff")
    run = fleet.replica.start_playbook(*rebuild)
    fleet.replica.host.check_output("timeout 120 python3 -c %s", code)
    machines.docker("kill", REPLICA)
    run.communicate()
    assert run.returncode != 0
    machines.docker("start", REPLICA)
    machines.wait_booted(REPLICA)
    wait_until(fleet.replica.streams, 60, "the replica from before follows")

    with watched_command_lines(REPLICA, [PASSWORD], control_node=True) as seen:
        done = fleet.replica.playbook(*rebuild)
    assert done.status == 0, done.output[-6000:]
    assert seen == []
    assert PASSWORD not in done.output
    assert fleet.replica.streams()
    assert fleet.replica.run(f"ls -d {DATA}*") == DATA
    for each in (fleet.primary, fleet.replica):
        assert each.host.run("journalctl --no-pager --output=cat | grep -F -c %s", PASSWORD).stdout.strip() == "0"
        assert each.host.run("grep -rF -l %s /etc /var/log /tmp /run", PASSWORD).stdout.split() in (
            [],
            ["/etc/postgresql/15/main/ansible-replication.pgpass"],
        )


def test_database_with_data_of_its_own_does_not_become_a_replica(fleet):
    said = fleet.refuses(
        PRIMARY, postgresql_primary_host=REPLICA, postgresql_replicas=[], postgresql_replication_slot="a"
    )
    assert (
        f"has the database mlflow, the user mlflow, the user replicator of its own, and a copy of {REPLICA} (postgresql_primary_host) would take its place"
        in said
    )
    assert f"-e postgresql_replica_rebuild={PRIMARY}" in said
    assert fleet.primary.sql("SELECT pg_is_in_recovery()") == "f"


def test_replica_does_not_become_a_primary_behind_its_operators_back(fleet):
    said = fleet.refuses(REPLICA, postgresql_primary_host="")
    assert "follows a primary, and postgresql_primary_host is empty" in said
    assert "pg_ctlcluster 15 main promote" in said
    assert fleet.replica.streams()


def test_both_have_the_same_rows(fleet):
    fleet.wait_same()
    for table in TABLES:
        rows = f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t"
        assert fleet.primary.sql(rows) == fleet.replica.sql(rows)
    assert int(fleet.primary.sql("SELECT count(*) FROM runs")) > 20
