"""A release is complete or absent: a build that fails or is killed leaves what runs as it was."""

import json
import re
from pathlib import Path

from fixtures import ROOT, kill_run, wait_until

LOCK = ROOT / "roles/mlflow/files/locks/mlflow-3.17.2.txt"
CACHE = {"UV_CACHE_DIR": "/var/cache/mlflow-machine/uv"}
# Each of them makes another release necessary, and nothing else.
EXTRA = {"killed": ["tomli-w==1.1.0"], "other": ["tomli-w==1.0.0"]}


def builds(machine):
    """Releases on the machine, and what is left of unfinished ones."""
    return set(machine.run("ls -A /opt/mlflow/releases").split())


def test_package_with_a_wrong_hash_is_not_installed(machine, tmp_path):
    broken = tmp_path / "broken.txt"
    package = re.compile(r"(?m)^(click==.*\\\n(?:    --hash=sha256:[0-9a-f]+ ?\\?\n)+)")
    broken.write_text(
        package.sub(lambda found: re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", found[1]), LOCK.read_text())
    )
    before = machine.state(), builds(machine)
    said = machine.refuses(mlflow_requirements_file=str(broken))
    assert "does not have the hash that the lock names" in said
    assert (machine.state(), builds(machine)) == before
    assert machine.is_healthy()


def test_index_out_of_reach_is_said(machine):
    unreachable = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "UV_HTTP_RETRIES": "0"}
    before = machine.state(), builds(machine)
    said = machine.refuses(mlflow_install_environment=unreachable, mlflow_extra_packages=EXTRA["other"])
    assert "the package index can't be reached; set mlflow_pip_index, or a proxy in mlflow_install_environment" in said
    assert (machine.state(), builds(machine)) == before
    assert machine.is_healthy()


def test_disk_that_fills_up_on_the_way_leaves_nothing_behind(machine):
    machine.run("mkdir -p /srv/small && mount -t tmpfs -o size=300m,mode=755 tmpfs /srv/small")
    try:
        said = machine.refuses(mlflow_install_dir="/srv/small/mlflow", mlflow_disk_required_mb=100)
        left = machine.run("ls -A /srv/small/mlflow/releases")
    finally:
        machine.run("umount /srv/small")
    assert "the disk is full; free some space" in said
    assert left == ""
    assert machine.is_healthy()


def running(machine, text):
    """Process ids on the machine whose command line has the text; brackets keep grep from finding itself."""
    found = machine.host.run(f"grep -la '[{text[0]}]{text[1:]}' /proc/[0-9]*/cmdline").stdout
    return [path.split("/")[2] for path in found.split()]


def installer(machine):
    """Process ids of uv while it installs the packages of the lock."""
    return running(machine, "/.build/lock.txt")


def test_killed_build_leaves_the_server(machine):
    before = machine.state()
    settings = json.dumps({"mlflow_extra_packages": EXTRA["killed"], "mlflow_install_environment": CACHE})
    for what in ("installer", "run"):
        run = machine.start_playbook("--extra-vars", settings)
        wait_until(lambda: bool(installer(machine)), 60, "uv installs")
        if what == "run":  # as when the control node loses its power: nobody is left to clean up
            kill_run(run)
            for pid in running(machine, "mlflow_release"):
                machine.host.run(f"kill -KILL {pid}")
        for pid in installer(machine):
            machine.host.run(f"kill -KILL {pid}")
        said, _ = run.communicate()
        assert run.returncode != 0
        if what == "installer":
            assert "it was stopped by signal 9; run the playbook again" in " ".join(said.split())
        assert machine.state() == before
        assert machine.is_healthy()


def test_two_runs_at_once_build_one_release(machine):
    """What the killed ones have left half-built, too."""
    settings = json.dumps({"mlflow_extra_packages": EXTRA["killed"], "mlflow_install_environment": CACHE})
    before = builds(machine)
    with machine.traffic() as seen:
        runs = [machine.start_playbook("--tags", "release", "--extra-vars", settings) for _ in range(2)]
        said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert (seen.failures, seen.answered > 0) == ([], True)
    assert len(builds(machine) - before) == 1
    assert ".build" not in builds(machine)


def test_next_run_finishes_what_killed_ones_began(machine):
    with machine.traffic() as seen:
        machine.converge(mlflow_extra_packages=EXTRA["killed"])
    assert (seen.failures, seen.answered > 0) == ([], True)
    assert machine.run("/opt/mlflow/current/bin/python -c 'import tomli_w, mlflow_service; print(1)'") == "1"
    assert machine.is_healthy()


def test_old_releases_are_pruned_and_the_running_one_stays(machine):
    before = Path(machine.run("readlink /opt/mlflow/current")).name
    never_ran = "/opt/mlflow/releases/3.17.2-000000000000"
    machine.run(f"cp -al /opt/mlflow/releases/{before} {never_ran} && touch {never_ran}")
    machine.converge(mlflow_releases_keep=2)
    now = Path(machine.run("readlink /opt/mlflow/current")).name
    assert now != before
    assert set(builds(machine)) == {now, before}  # and not a newer one that never ran
    machine.converge(mlflow_releases_keep=1)
    (left,) = builds(machine)
    assert machine.run("readlink /opt/mlflow/current").endswith(left)
    assert machine.is_healthy()
