"""The deep check: which worker hangs, and what is done about it. The scenario `monitoring` has real servers."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from mlflow_service import watch
from mlflow_service.backup.manifest import write_manifest
from mlflow_service.serving import worker_health

ENVIRONMENT = {"MLFLOW_SERVICE_PREVIOUS_SETTINGS": "/etc/mlflow/previous.env", "MLFLOW_CHECK_RESTART_AFTER": "3"}


@pytest.fixture
def runtime_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path


def told(pid, answered=0, threads=True, warm=True):
    return worker_health.Worker(pid, {"warm": warm, "in_progress": 1, "answered": answered, "threads": threads})


async def ask_in_thread(path, timeout=5.0):
    return await asyncio.to_thread(worker_health.ask, path, {os.getpid()}, timeout)


def test_worker_tells_that_it_works(runtime_folder):
    async def steps():
        one = worker_health.Pulse(health)
        await one.start()
        (path,) = worker_health.sockets(runtime_folder)
        assert (await ask_in_thread(path)).state == {"warm": False, "in_progress": 0, "answered": 0}
        one.warm = True
        assert (await ask_in_thread(path)) == told_by_us()

    async def health():
        return 200

    def told_by_us():
        return worker_health.Worker(os.getpid(), {"warm": True, "in_progress": 0, "answered": 0, "threads": True})

    asyncio.run(steps())


def test_worker_whose_threads_hang_tells_so_and_is_asked_once(runtime_folder, monkeypatch):
    monkeypatch.setattr(worker_health, "THREADS_SECONDS", 0.05)
    asked = 0

    async def hanging():
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    async def steps():
        one = worker_health.Pulse(hanging)
        one.warm = True
        await one.start()
        (path,) = worker_health.sockets(runtime_folder)
        for _ in range(3):
            assert (await ask_in_thread(path)).state["threads"] is False
        one.asked.cancel()

    asyncio.run(steps())
    assert asked == 1


def test_worker_whose_event_loop_is_blocked_is_found_by_its_pid(runtime_folder):
    blocked = threading.Event()

    async def serve():
        await worker_health.Pulse(serve).start()
        started.set()
        await asyncio.sleep(0)
        blocked.wait(30)

    started = threading.Event()
    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    started.wait(30)
    (path,) = worker_health.sockets(runtime_folder)
    try:
        assert worker_health.ask(path, {os.getpid()}, 0.2) == worker_health.Worker(os.getpid(), None)
    finally:
        blocked.set()
        server.join()


def test_worker_that_is_gone_is_none(runtime_folder):
    path = runtime_folder / "pulse-1.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert worker_health.ask(path, set()) is None


@pytest.fixture
def listener(runtime_folder):
    """A function that answers whoever connects to a socket of the folder with a text, and keeps the line open."""
    with contextlib.ExitStack() as stack:

        def listen(text, name="pulse-1.sock", pause=0.0):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(runtime_folder / name))
            listening.listen()

            def answer():
                with contextlib.suppress(OSError):  # the test may be over at any moment
                    connection, _ = listening.accept()
                    stack.enter_context(connection)
                    for number in range(len(text)):
                        connection.sendall(text[number : number + 1] if pause else text[number:])
                        if not pause:
                            break
                        ended.wait(pause)

            threading.Thread(target=answer, daemon=True).start()
            return runtime_folder / name

        ended = threading.Event()
        stack.callback(ended.set)
        yield listen


def test_socket_that_is_a_link_is_nobodys(listener, runtime_folder, tmp_path):
    """Somebody else's process listens there; it must not be taken for a worker that hangs."""
    runtime_folder.chmod(0o777)
    elsewhere = listener(b"", name="elsewhere")
    (runtime_folder / "pulse-2.sock").symlink_to(elsewhere)
    with pytest.raises(worker_health.OddError, match="is a link"):
        worker_health.ask(runtime_folder / "pulse-2.sock", {os.getpid()})


def test_process_that_is_none_of_the_services_is_no_worker(listener, runtime_folder):
    with pytest.raises(worker_health.OddError, match=f"of process {os.getpid()}, which is none of the service's"):
        worker_health.ask(listener(b"{}\n", name=f"pulse-{os.getpid()}.sock"), {os.getpid() + 1})
    with socket.socket(socket.AF_UNIX) as full, contextlib.ExitStack() as stack:
        full.bind(str(runtime_folder / f"pulse-{os.getppid()}.sock"))  # whose queue is full names a process itself
        full.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(str(runtime_folder / f"pulse-{os.getppid()}.sock")) == errno.EAGAIN:
                break
        with pytest.raises(worker_health.OddError, match=f"of process {os.getppid()}"):
            worker_health.ask(runtime_folder / f"pulse-{os.getppid()}.sock", {os.getpid()}, 0.2)


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON\n",
        b"[]\n",
        b"[" * 4000 + b"\n",
        b"x" * 100_000 + b"\n",
        b'{"warm": true, "in_progress": 1, "answered": 1}\n',
        b'{"warm": 1, "in_progress": 1, "answered": 1, "threads": true}\n',
        b'{"warm": true, "in_progress": 1, "answered": "many", "threads": true}\n',
        b"\xff\xfe\n",
    ],
)
def test_answer_that_no_worker_gives_is_odd(listener, line):
    with pytest.raises(worker_health.OddError, match="answers what no worker does"):
        worker_health.ask(listener(line), {os.getpid()})


def test_answer_that_comes_in_drops_is_waited_for_as_long_as_any_other(listener):
    started = time.monotonic()
    path = listener(b" " * 1000, pause=0.05)
    assert worker_health.ask(path, {os.getpid()}, 0.3) == worker_health.Worker(os.getpid(), None)
    assert time.monotonic() - started < 10


def test_names_that_no_worker_has_are_said_in_one_line_and_once(runtime_folder, caplog):
    for name in (b"pulse-abc.sock", b"pulse-1\n.sock", b"pulse-\xff.sock"):
        (runtime_folder / os.fsdecode(name)).touch()
    (runtime_folder / "pulse-7.sock").touch()
    assert worker_health.sockets(runtime_folder) == [runtime_folder / "pulse-7.sock"]
    state = watch.State()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            watch.say_odd(worker_health.odd_names(runtime_folder), state)
    (record,) = caplog.records
    assert "'pulse-abc.sock'" in record.getMessage() and record.getMessage().isprintable()


def test_only_the_services_own_process_is_killed(monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as victim:
        monkeypatch.setattr(watch, "members", lambda: {victim.pid + 1})
        watch.kill(victim.pid)
        assert victim.poll() is None
        monkeypatch.setattr(watch, "members", lambda: {victim.pid})
        watch.kill(victim.pid)
        assert victim.wait(10) == -signal.SIGKILL
    watch.kill(victim.pid)  # which is gone


def test_processes_of_a_service_are_those_of_its_control_group(tmp_path, monkeypatch):
    (tmp_path / "system.slice" / "mlflow.service" / "inner").mkdir(parents=True)
    (tmp_path / "system.slice" / "mlflow.service" / "cgroup.procs").write_text("12\n34\n")
    (tmp_path / "system.slice" / "mlflow.service" / "inner" / "cgroup.procs").write_text("56\n")
    (tmp_path / "system.slice" / "cgroup.procs").write_text("1\n")
    monkeypatch.setattr(watch, "CONTROL_GROUPS", [tmp_path, tmp_path / "none"])
    monkeypatch.setattr(watch, "shown", lambda *_: {"ControlGroup": "/system.slice/mlflow.service"})
    assert watch.members() == {12, 34, 56}
    monkeypatch.setattr(watch, "shown", lambda *_: {"ControlGroup": ""})
    assert watch.members() == set()


@pytest.mark.parametrize(
    "worker, hangs",
    [
        (told(1), False),
        (told(1, threads=False, answered=7), True),
        (told(1, threads=False, answered=8), False),  # slow, but something came out
        (told(1, threads=False, answered=7, warm=False), False),
        (worker_health.Worker(1, None), True),
        (worker_health.Worker(2, None), True),
    ],
)
def test_worker_hangs_when_nothing_comes_out_of_it(worker, hangs):
    state = watch.State(answered={"1": 7})
    assert bool(watch.judge([worker], state)) is hangs


def test_checks_in_a_row_are_counted_for_each_worker():
    state = watch.State()
    for _ in range(2):
        watch.judge([worker_health.Worker(1, None), told(2)], state)
    assert state.hung == {"1": 2}
    watch.judge([told(1), told(2)], state)
    assert state.hung == {}
    watch.judge([], state)
    assert state.silent == 1


@pytest.fixture
def healing(tmp_path, monkeypatch):
    """Runs `heal` on a service of which it is said what it is; returns what it did and whom it killed."""

    def run(workers, state, database=True, unit=None, **options):
        killed, answered = [], options.pop("answered", False)
        properties = {"ActiveState": "active", "InvocationID": state.invocation} | (unit or {})
        monkeypatch.setattr(watch, "shown", lambda *_: properties)
        monkeypatch.setattr(watch, "database_answers", lambda _: database)
        monkeypatch.setattr(watch, "answers", lambda _: answered)
        monkeypatch.setattr(watch, "kill", killed.append)
        monkeypatch.setattr(watch.subprocess, "run", lambda command, **_: killed.append(command[-1]))
        settings = watch.Settings(tmp_path, **options)
        return watch.heal(settings, {"MLFLOW_SERVICE_URL": "http://127.0.0.1"}, workers, state), killed

    return run


def test_one_worker_that_hangs_is_killed_alone(healing):
    workers = [worker_health.Worker(1, None), told(2)]
    assert healing(workers, watch.State(hung={"1": 2})) == ("", [])
    done, killed = healing(workers, watch.State(hung={"1": 3}))
    assert killed == [1]
    assert done == "killed worker 1, which is replaced"


@pytest.mark.parametrize("workers, state", [([worker_health.Worker(1, None)], {"hung": {"1": 3}}), ([], {"silent": 3})])
def test_service_of_which_nothing_answers_is_killed(healing, workers, state):
    assert healing(workers, watch.State(**state))[1] == ["mlflow.service"]


def test_server_whose_database_is_down_is_left_alone_and_gets_time_afterwards(healing):
    state = watch.State(hung={"1": 3})
    done, killed = healing([worker_health.Worker(1, None)], state, database=False)
    assert killed == []
    assert "left alone" in done
    assert state.hung == {}


def test_service_that_answers_somebody_is_not_killed(healing):
    assert healing([], watch.State(silent=3), answered=True)[1] == []


def test_nothing_is_killed_where_that_is_off(healing):
    assert healing([worker_health.Worker(1, None)], watch.State(hung={"1": 99}), restart_after=0) == ("", [])


@pytest.mark.parametrize("unit", [{"ActiveState": "inactive"}, {"InvocationID": "another"}])
def test_server_that_was_stopped_or_started_meanwhile_is_left_alone(healing, unit):
    assert healing([worker_health.Worker(1, None)], watch.State(hung={"1": 3}), unit=unit) == ("", [])


def test_nothing_is_killed_during_a_change(healing, tmp_path):
    (tmp_path / "rollback").mkdir()
    (tmp_path / "rollback" / "change.json").touch()
    assert healing([worker_health.Worker(1, None)], watch.State(hung={"1": 3})) == ("", [])


def test_lock_of_a_change_is_seen_and_kept(tmp_path):
    (tmp_path / "rollback.lock").touch()
    with watch.no_change(tmp_path) as free, watch.no_change(tmp_path) as also:
        assert (free, also) == (True, False)


def test_server_that_is_stopped_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "shown", lambda *_: {"ActiveState": "inactive", "InvocationID": ""})
    monkeypatch.setattr(watch.metadata, "version", lambda _: "3.17.2")
    result = watch.watch(watch.Settings(tmp_path), {}, watch.State())
    assert watch.sentence(result) == "workers: mlflow.service is inactive"


def test_metrics_are_prometheus_text(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "shown", lambda *_: {"Result": "exit-code"})
    made = tmp_path / "20260101T000000Z-3.17.2"
    made.mkdir()
    files = {
        member: {"bytes": size, "sha256": "0" * 64} for member, size in (("database.sqlite", 5), ("artifacts.tar", 6))
    }
    words = {"name": made.name, "created": "2026-01-01T00:00:00+00:00", "mlflow_version": "3.17.2", "release": "r"}
    words |= {"schema_revision": "r", "host": "h", "label": "", "store": {"kind": "sqlite", "name": "sqlite:////x"}}
    write_manifest(made, {"format": 1, **words, "files": files})
    steps = {"health": {"ok": True, "milliseconds": 12.5, "error": None}}
    settings = watch.Settings(tmp_path, backup_dir=str(tmp_path), certificates=['/no"thing.pem'])
    result = {"version": "3.17.2", "ok": True, "steps": steps, "hung": 0}
    lines = watch.metrics(settings, watch.State(last_success=1.5), result).splitlines()
    assert "mlflow_check_ok 1" in lines
    assert 'mlflow_check_step_seconds{step="health"} 0.0125' in lines
    assert "mlflow_backup_ok 0" in lines
    assert "mlflow_backup_timestamp_seconds 1767225600" in lines
    assert "mlflow_backup_size_bytes 11" in lines
    assert 'mlflow_certificate_expiry_timestamp_seconds{path="/no\\"thing.pem"} 0' in lines


def test_certificates_are_named_or_found_by_a_pattern(tmp_path):
    for name in ("b.pem", "a.pem", "a.pem.key"):
        (tmp_path / name).touch()
    assert watch.certificates(["/gone.pem", f"{tmp_path}/*.pem", "/gone/*.pem"]) == [
        "/gone.pem",
        f"{tmp_path}/a.pem",
        f"{tmp_path}/b.pem",
    ]
