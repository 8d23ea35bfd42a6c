"""The contract of the rollback folder: what one program leaves there, each of the others understands."""

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import rollback
from mlflow_service import watch
from mlflow_service.change.machine import Machine
from mlflow_service.change.model import Journal, Request
from mlflow_service.system import rollback as on_the_machine

SERVICE = Path(on_the_machine.__file__).resolve()


@pytest.fixture
def config(ours) -> Path:
    """A folder of settings with one file that was there before."""
    folder = ours / "etc"
    folder.mkdir(mode=0o755)
    (folder / "mlflow.env").write_text("old")
    (folder / "mlflow.env").chmod(0o640)
    return folder


@pytest.fixture
def write(module, config):
    """A function that writes a file as the role does."""

    def run(name: str, text: str, **more: object) -> dict:
        owner = {"owner": (config / "mlflow.env").owner(), "group": (config / "mlflow.env").group()}
        entry = {"path": str(config / name), "content": text, "mode": "0640", **owner}
        return module("managed_files", entries=[entry], rollback_dir=str(config / "rollback"), **more)

    return run


def test_both_sides_go_by_one_file():
    assert Path(rollback.__file__).resolve() == SERVICE


def test_change_takes_back_what_the_role_has_written(write, config):
    assert write("mlflow.env", "new")["pending"] == [str(config / "mlflow.env")]
    write("added.pem", "new")
    machine = Machine(config, config.parent / "opt")
    assert set(machine.replaced()) == {str(config / "mlflow.env"), str(config / "added.pem")}
    machine.rollback.put_back()
    assert (config / "mlflow.env").read_text() == "old"
    assert stat.S_IMODE((config / "mlflow.env").stat().st_mode) == 0o640
    assert not (config / "added.pem").exists()
    machine.rollback.settle()
    assert write("mlflow.env", "old") == {**write("mlflow.env", "old"), "pending": [], "changed": False}


def test_only_the_version_that_was_in_use_is_kept(write, config):
    write("mlflow.env", "first try")
    write("mlflow.env", "second try")
    folder = rollback.Folder(config / "rollback")
    [kept] = folder.replaced().values()
    assert Path(kept["copy"]).read_text() == "old"


def test_units_that_ran_are_those_before_the_first_file_was_replaced(config):
    folder = rollback.Folder(config / "rollback")
    assert folder.ran(["of-a-run-that-replaced-nothing.service"]) == ["of-a-run-that-replaced-nothing.service"]
    assert folder.ran(["b.service", "a.service"]) == ["a.service", "b.service"]
    folder.keep(str(config / "mlflow.env"))
    assert folder.ran([]) == ["a.service", "b.service"]
    folder.settle()
    assert folder.ran([]) == []


def test_change_that_was_killed_is_known_to_all(config):
    folder = rollback.Folder(config / "rollback")
    request = Request("2-b", "2", "http://127.0.0.1:5001", "nobody", "nogroup", "/var/lib/mlflow")
    journal = Journal(request, "1-a")
    Machine(config, config.parent / "opt").write(journal, phase="migrating", backup="/var/backups/mlflow/x")
    assert folder.noted()["phase"] == "migrating"
    assert folder.noted()["backup"] == "/var/backups/mlflow/x"
    with watch.no_change(config) as free:
        assert free is False
    folder.forget()
    with watch.no_change(config) as free:
        assert free is True


def test_who_changes_something_keeps_the_others_waiting(write, config):
    folder = rollback.Folder(config / "rollback")
    with open(folder.lock, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with watch.no_change(config) as free:
            assert free is False
        waiting = threading.Thread(target=write, args=("mlflow.env", "new"))
        waiting.start()
        waiting.join(1.5)
        assert waiting.is_alive()
        assert (config / "mlflow.env").read_text() == "old"
    waiting.join()
    assert (config / "mlflow.env").read_text() == "new"


def test_settled_folder_that_was_not_deleted_is_no_way_back(config):
    folder = rollback.Folder(config / "rollback")
    folder.keep(str(config / "mlflow.env"))
    Path(folder.path).rename(folder.settled)  # and then the machine lost its power
    assert (folder.replaced(), folder.noted()) == ({}, {})
    folder.keep(str(config / "mlflow.env"))
    folder.settle()
    assert not Path(folder.settled).exists()


def test_copy_that_is_no_file_any_more_is_not_put_back(config):
    folder = rollback.Folder(config / "rollback")
    folder.keep(str(config / "mlflow.env"))
    copy = Path(folder.replaced()[str(config / "mlflow.env")]["copy"])
    copy.unlink()
    os.mkfifo(copy)  # who opens it would wait for ever
    with pytest.raises(rollback.files.Refusal):
        folder.put_back()
    assert (config / "mlflow.env").read_text() == "old"
