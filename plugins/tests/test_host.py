"""What every role reads of a machine, on this one."""

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import host


@pytest.fixture
def listening() -> tuple[socket.socket, int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


def test_who_listens_on_a_port_is_found(listening):
    _server, port = listening
    [(address, inode)] = host.listeners(port)
    assert str(address) == "127.0.0.1"
    pid, name = host.holder(inode)
    assert pid == os.getpid()
    assert host.described(pid, name) == f"{name} (process {os.getpid()})"
    assert name == Path("/proc/self/comm").read_text().strip()


def test_port_on_which_nobody_listens_has_no_holder(listening):
    server, port = listening
    server.close()
    assert host.listeners(port) == []
    assert host.described(*host.holder("0")) == "another process"


def test_machine_is_described(module):
    system = module("host_state")["system"]
    assert system["root"] is (os.geteuid() == 0)
    assert system["cores"] == len(os.sched_getaffinity(0))
    assert system["machine"] == os.uname().machine
    assert f"ID={system['distribution']}" in Path("/etc/os-release").read_text().replace('"', "")
    assert system["likeness"][0] == system["distribution"]
    assert (
        system["memory_mb"] * 1024
        <= int(Path("/proc/meminfo").read_text().split()[1])
        < (system["memory_mb"] + 1) * 1024
    )
    assert bool(system["systemd"]) is Path("/run/systemd/system").is_dir()


def test_missing_files_are_named_and_folders_are_none(module, tmp_path):
    (tmp_path / "there").touch()
    paths = [str(tmp_path / "there"), str(tmp_path / "gone"), str(tmp_path)]
    assert module("host_state", paths=paths)["missing"] == paths[1:]


@pytest.mark.parametrize(
    ("network", "wrong"),
    [
        ("10.0.0.0/8", []),
        ("::1/128", []),
        ("10.0.0.1", ["10.0.0.1 has no prefix length, such as /32"]),
        ("10.0.0.1/8", ["10.0.0.1/8 has host bits set"]),
    ],
)
def test_networks_are_told_from_addresses(network, wrong):
    assert host.wrong_networks([network]) == wrong


def test_file_with_odd_bytes_is_read_and_one_that_is_not_there_is_empty(tmp_path):
    (tmp_path / "odd").write_bytes(b"caf\xe9")
    assert host.read(tmp_path / "odd").encode(errors="surrogateescape") == b"caf\xe9"
    assert host.read(tmp_path / "gone") == ""


def test_postgresql_is_read_where_there_is_none(module):
    state = module("postgresql_state", port=5432, listen_addresses=["localhost"], networks=["10.0.0.1"])["state"]
    assert state["networks"] == ["10.0.0.1 has no prefix length, such as /32"]
    assert isinstance(state["system"]["has_driver"], bool)


def test_port_of_postgresql_is_taken_by_who_has_it(module, listening):
    _server, port = listening
    state = module("postgresql_state", port=port, listen_addresses=["localhost"], networks=[])["state"]
    assert state["port_taken"].endswith(f"(process {os.getpid()})")
    elsewhere = module("postgresql_state", port=port, listen_addresses=["127.0.0.2"], networks=[])["state"]
    assert elsewhere["port_taken"] == ""
