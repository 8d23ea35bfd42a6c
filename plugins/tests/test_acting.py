"""Acting as the service: what its children get of root, and how far what they say is believed."""

import os
import pty
import socket
import subprocess
import sys
import threading
import time

import pytest
from mlflow_service.accounts import client, local_key
from mlflow_service.system import acting

NOBODY = {}  # we are who we are: which account it is makes no difference here


def run(code, *arguments, **options):
    return acting.run(acting.python("-c", code, *arguments), NOBODY, {"NAME": "value"}, home="/nonexistent", **options)


def test_child_has_the_environment_that_it_is_given_and_no_other():
    done = run("import json, os; print(json.dumps(dict(os.environ))); print(json.dumps({'cwd': os.getcwd()}))")
    assert done.status == 0
    assert done.output.splitlines()[0].startswith('{"PATH"')
    assert '"NAME": "value"' in done.output and "MLFLOW" not in done.output
    assert done.answer() == {"cwd": "/"}


def test_child_imports_nothing_from_its_working_folder_nor_by_variables(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("print('taken over')")
    code = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = acting.python("-m", "json.tool", "--help")
    for path in ("", str(tmp_path)):
        environment = {"PATH": os.defpath, "PYTHONPATH": path, "PYTHONSTARTUP": str(tmp_path / "json.py")}
        done = subprocess.run(
            [sys.executable, "-c", code, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert "usage" in done.stdout and "taken over" not in done.stdout


def test_child_has_neither_our_terminal_nor_our_descriptors():
    """Whoever runs as the service could type into the terminal, or write where only root may."""
    parent, child = pty.openpty()
    os.set_inheritable(child, True)
    code = """
import os, sys
open_here = [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{each}")]
try:
    os.open("/dev/tty", os.O_RDWR)
    print("a terminal")
except OSError:
    print("none")
print([path for path in open_here if not path.startswith(("pipe:", "/dev/null", "/proc/"))], os.getsid(0) == os.getpid())
"""
    try:
        assert run(code).output.splitlines() == ["none", "[] True"]
    finally:
        os.close(parent)
        os.close(child)


def test_input_is_a_text_of_any_length():
    assert run("import sys; print(len(sys.stdin.read()))", given="x" * 3_000_000).output == "3000000\n"


def test_child_that_does_not_end_is_killed_with_all_that_it_has_started(tmp_path):
    started = time.monotonic()
    code = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[1], "w").write(str(child.pid))
os.kill(os.getpid(), signal.SIGSTOP)
"""
    with pytest.raises(acting.ActingError, match="did not end in time"):
        run(code, str(tmp_path / "pid"), seconds=1.0)
    assert time.monotonic() - started < 30
    pid = int((tmp_path / "pid").read_text())
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    assert state in {"", "Z"}


def test_child_that_says_too_much_is_killed(monkeypatch):
    monkeypatch.setattr(acting, "OUTPUT_LIMIT", 100_000)
    with pytest.raises(acting.ActingError, match="said more than"):
        run("while True: print('x' * 1000)")


def test_who_holds_the_pipe_of_a_child_that_has_ended_is_not_waited_for():
    started = time.monotonic()
    code = "import os; os.fork() or (os.setsid(), os.execvp('sleep', ['sleep', '20'])); print('{}')"
    assert run(code).answer() == {}
    assert time.monotonic() - started < 15


def test_output_for_a_file_goes_there_and_the_child_can_not_change_it_later(tmp_path):
    with (tmp_path / "archive").open("w+b") as archive:
        done = run("import sys; sys.stdout.write('x' * 1_000_000); print('why', file=sys.stderr)", output=archive)
    assert (done.status, done.output, done.errors) == (0, "", "why\n")
    assert (tmp_path / "archive").stat().st_size == 1_000_000


@pytest.mark.parametrize("said", ["", "no JSON", "[1]", "[" * 100_000, "{"])
def test_what_is_no_object_is_no_answer(said):
    with pytest.raises(acting.ActingError, match="ended with status 3: the last line"):
        run(
            "import sys; print(sys.argv[1]); print('the last\\nline\\x1b'[:0] + 'the last line', file=sys.stderr); sys.exit(3)",
            said,
        ).answer()


def test_words_of_others_stay_on_their_line_and_are_shown_as_text():
    done = acting.Done(1, "", "first\n\x1b[2Jlast\r\n")
    assert done.last_words == "\\x1b[2Jlast"
    assert acting.one_line("a\nb\tc") == "a b c"


@pytest.mark.parametrize("name", ["local-user", "local-token"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("a b"),
        lambda path: path.write_text("x" * 300),
        lambda path: path.write_text("line\n" * 3),
        lambda path: path.write_text(""),
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: None,
    ],
)
def test_key_that_the_server_can_not_have_written_is_none(tmp_path, monkeypatch, name, spoil):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    tmp_path.chmod(0o777)
    local_key.write("admin")
    assert local_key.read() is not None
    (tmp_path / name).unlink()
    spoil(tmp_path / name)
    assert local_key.read() is None
    assert local_key.header() == ""


def test_key_is_a_name_and_a_token(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    local_key.write("the-admin@example.com")
    user, token = local_key.read()
    assert user == "the-admin@example.com" and len(token) == 43


@pytest.fixture
def answering():
    """A function that starts an HTTP server which answers with the bytes; returns its address."""
    sockets = []

    def start(*blocks, pause=0.0):
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def serve():
            try:
                connection, _ = listening.accept()
                sockets.append(connection)
                connection.recv(65536)
                for block in blocks:
                    connection.sendall(block)
                    ended.wait(pause)
                if pause:
                    ended.wait(60)
            except OSError:  # the test is over
                return
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    ended = threading.Event()
    yield start
    ended.set()
    for each in sockets:
        each.close()


def test_redirection_is_not_followed(answering):
    other = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nseen")
    url = answering(f"HTTP/1.1 302 Found\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(client.ServerError, match="answered 302") as caught:
        client.Server(url, 10, authorization="Basic c2VjcmV0").request("GET", "/health")
    assert caught.value.status == 302


def test_answer_in_drops_ends_in_time(answering):
    started = time.monotonic()
    url = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 1000, pause=0.1)
    with pytest.raises(client.ServerError, match="got no answer"):
        client.Server(url, 1.0).request("GET", "/health")
    assert time.monotonic() - started < 20


def test_answer_without_an_end_is_bounded(answering, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_LIMIT", 100_000)
    url = answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000)
    with pytest.raises(client.ServerError, match="more than 100000 bytes"):
        client.Server(url, 10).request("GET", "/health")


def test_refusal_is_one_line_with_its_status(answering):
    url = answering(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 9\r\n\r\ntwo\nlines")
    with pytest.raises(client.ServerError, match=r"^GET /health answered 503: two lines$"):
        client.Server(url, 10).request("GET", "/health")
