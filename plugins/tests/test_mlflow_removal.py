"""mlflow_removal: which folders it takes for the system's, and what it takes for its own."""

import sqlite3

import mlflow_removal as removal
import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import files


@pytest.mark.parametrize(
    "path", ["", "data", "/", "/etc", "/var", "/var/lib", "/usr/lib/x", "/etc/systemd/x", "/a/../etc"]
)
def test_folder_of_the_system_is_refused(path):
    assert removal.wrong_path("data_dir", path).startswith("mlflow_data_dir is ")


@pytest.mark.parametrize("path", ["/opt/mlflow", "/etc/mlflow", "/var/lib/mlflow", "/var/backups/mlflow", "/srv/x"])
def test_folder_of_ones_own_is_right(path):
    assert removal.wrong_path("data_dir", path) == ""


def test_link_to_the_system_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/var/log")
    assert "a link to /var/log" in removal.wrong_path("backup_dir", str(tmp_path / "link"))


def test_what_the_role_has_not_made_is_told_apart(tmp_path):
    for name in ("releases", "uv-0123", ".build.lock", "notes"):
        (tmp_path / name).mkdir()
    own, others = removal.own_entries(str(tmp_path), removal.INSTALLED)
    assert [path.rpartition("/")[2] for path in own] == [".build.lock", "releases", "uv-0123"]
    assert others == [str(tmp_path / "notes")]


def test_backups_and_half_made_ones_are_ours(tmp_path):
    for name in ("20261123T171200Z-3.17.2", ".20261123T171200Z-3.17.2-by-hand.unfinished", ".lock", "dump.sql"):
        (tmp_path / name).mkdir()
    own, others = removal.backups_in(str(tmp_path))
    assert len(own) == 3
    assert others == [str(tmp_path / "dump.sql")]


def test_link_is_deleted_with_what_it_names_only_where_that_is_data(ours):
    (ours / "data").mkdir()
    (ours / "data" / "mlflow.db").touch()
    for name in ("one", "two"):
        (ours / name).symlink_to(ours / "data")
    removal.delete(str(ours / "one"))
    assert (ours / "data" / "mlflow.db").exists()
    removal.delete_data(str(ours / "two"))
    assert list(ours.iterdir()) == []


def test_link_that_the_service_can_have_made_does_not_lead_to_data(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    (tmp_path / "theirs" / "artifacts").symlink_to(tmp_path / "else")
    with pytest.raises(files.Refusal, match="theirs/artifacts is a link"):
        removal.delete_data(str(tmp_path / "theirs" / "artifacts"))
    assert (tmp_path / "else" / "file").exists()


def test_runs_are_counted_in_a_file_and_not_behind_a_link(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        for table, number in (("runs", 3), ("experiments", 2)):
            database.execute(f"CREATE TABLE {table} (id INTEGER)")
            database.executemany(f"INSERT INTO {table} VALUES (?)", [(each,) for each in range(number)])
    database.close()
    assert removal.sqlite_counts(str(tmp_path / "mlflow.db")) == [3, 2]
    (tmp_path / "link.db").symlink_to(tmp_path / "mlflow.db")
    tmp_path.chmod(0o777)
    assert removal.sqlite_counts(str(tmp_path / "link.db")) == []
    assert removal.sqlite_counts(str(tmp_path / "none.db")) == []


@pytest.mark.parametrize("row", [None, [], [1], [1, 2, 3], ["x", 1], [1, "2; DROP"], [-1, 1]])
def test_what_is_no_pair_of_numbers_is_none(row):
    assert removal.whole_numbers(row) == []


def test_link_in_the_data_does_not_lead_out_of_them(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "else")
    removal.delete_data(str(tmp_path / "data"))
    assert (tmp_path / "else" / "file").exists()


@pytest.mark.parametrize("size, words", [(0, "0 bytes"), (1536, "1.5 KiB"), (3 * 1024**4, "3.0 TiB")])
def test_sizes_are_for_people(size, words):
    assert removal.amount(size) == words
