"""What clients notice when something dies or restarts."""

import json

from fixtures import wait_until

BURST = 64


def test_server_is_the_one_that_mlflow_server_starts(machine):
    differences = machine.differences_from_stock()
    assert len(differences) == 4
    assert not any(differences.values()), differences


def test_admin_command_works_on_the_services_store(machine):
    assert "Default" in machine.run("mlflow-admin experiments search")
    machine.run("mlflow-admin gc")
    machine.run("mlflow-admin db upgrade")
    assert machine.is_healthy()


def test_request_that_a_stop_crosses_is_answered(machine):
    """Connections that are open and idle when the server is told to stop get one more answer."""
    crossing = """
import http.client, json, os, signal, sys, time
clients = [http.client.HTTPConnection("127.0.0.1", 5001, timeout=120) for _ in range(20)]
def version(client):
    client.request("GET", "/version")
    answer = client.getresponse()
    answer.read()
    return answer.status
first = [version(client) for client in clients]
os.kill(int(sys.argv[1]), signal.SIGTERM)
second = []
for client in clients:
    time.sleep(0.02)  # the signal takes a while from process to process; these are spread over it
    second.append(version(client))
print(json.dumps([first, second]))
"""
    pid = machine.main_pid()
    answers = machine.host.check_output("python3 -c %s %s", crossing, str(pid))
    assert json.loads(answers) == [[200] * 20, [200] * 20]
    wait_until(lambda: machine.main_pid() not in (0, pid), 60, "systemd has started another one")
    assert machine.is_healthy()


def test_killed_worker_is_replaced_and_the_others_go_on(machine):
    first, *rest = machine.workers()
    machine.run(f"kill -KILL {first}")
    assert machine.is_healthy()
    wait_until(lambda: len(set(machine.workers()) - {first}) == len(rest) + 1, 60, "a new worker is there")
    assert machine.is_healthy()


def test_killed_server_comes_back_by_itself_and_a_burst_right_after_its_start_sees_no_server_error(machine):
    killed = machine.main_pid()
    machine.run(f"kill -KILL {killed}")
    wait_until(lambda: machine.main_pid() not in (0, killed), 60, "systemd has started another one")
    # The clients wait at the socket until it is ready.
    assert machine.burst(BURST, "/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}) == [200] * BURST
    assert machine.is_healthy()


def test_start_that_can_not_open_its_store_ends_until_it_can(machine):
    code = """
import sqlite3, sys
with sqlite3.connect("/var/lib/mlflow/mlflow.db") as store:
    print(*store.execute("SELECT version_num FROM alembic_version").fetchone())
    store.execute("UPDATE alembic_version SET version_num = ?", sys.argv[1:])
"""
    known = machine.host.check_output("systemctl stop mlflow.service; python3 -c %s of-another-mlflow", code)
    assert machine.host.run("systemctl start mlflow.service").rc != 0
    machine.host.check_output("python3 -c %s %s", code, known)
    assert "the backend store can't be opened" in machine.run("journalctl --identifier=mlflow --output=cat --lines=40")
    assert machine.is_healthy()  # its next start is on its way


def test_clients_that_connect_together_are_shared_by_the_workers(machine):
    """A worker that takes all that wait has each burst for itself. On a busy machine, one may be asleep in one of them."""
    code = """
import collections, glob, os, socket
clients = [socket.create_connection(("127.0.0.1", 5001)) for _ in range(32)]
for client in clients:
    client.sendall(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
for client in clients:
    assert client.recv(12) == b"HTTP/1.1 200"
ours = {f"{client.getsockname()[1]:04X}" for client in clients}
held = {fields[9] for fields in map(str.split, open("/proc/net/tcp")) if fields[2].rpartition(":")[2] in ours}
shares = collections.Counter()
for descriptor in glob.glob("/proc/[0-9]*/fd/*"):
    if os.path.lexists(descriptor) and os.readlink(descriptor).strip("socket:[]") in held:
        shares[descriptor.split("/")[2]] += 1
print(*shares.values())
"""
    bursts = [[int(share) for share in machine.host.check_output("python3 -c %s", code).split()] for _ in range(5)]
    assert {sum(shares) for shares in bursts} == {32}
    assert [shares for shares in bursts if len(shares) == len(machine.workers()) and min(shares) >= 4] != [], bursts


def test_readers_of_the_store_do_not_wait_for_its_writer(machine):
    """SQLite's WAL mode: a transaction that writes stays open, and a search is answered all the same."""
    code = """
import http.client, sqlite3
writer = sqlite3.connect("/var/lib/mlflow/mlflow.db", isolation_level=None)
writer.execute("BEGIN EXCLUSIVE")
client = http.client.HTTPConnection("127.0.0.1", 5001, timeout=20)
client.request("POST", "/api/2.0/mlflow/runs/search", '{"experiment_ids": ["0"]}', {"Content-Type": "application/json"})
print(client.getresponse().status)
writer.execute("ROLLBACK")
"""
    assert machine.host.check_output("python3 -c %s", code) == "200"
