"""What `make` promises on a control node; the scenario has run `make up` once."""

import json
import os
import re
import subprocess
import urllib.request

from fixtures import DEFAULT_VERSION, ROOT, machines

URL = f"http://127.0.0.1:{os.environ['PORT']}"


def make(*arguments):
    done = subprocess.run(["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changed(output):
    return int(re.search(r"changed=(\d+)", output)[1])


def test_server_answers_on_the_published_port(machine):
    with urllib.request.urlopen(f"{URL}/health", timeout=30) as answer:
        assert answer.read() == b"OK"


def test_second_up_changes_nothing_and_says_what_a_person_needs(machine):
    said = make("up")
    assert changed(said) == 0
    assert f"export MLFLOW_TRACKING_URI={URL}" in said
    assert re.search(rf"MLflow +{re.escape(DEFAULT_VERSION)}, ", said)
    assert re.search(r"Backend store +sqlite:////var/lib/mlflow/mlflow\.db", said)
    assert re.search(r"Artifact store +/var/lib/mlflow/artifacts", said)
    assert said.rstrip().endswith(f"MLflow answers at {URL}. Its logs: make logs. Remove it: make down.")


def test_up_passes_settings_on(machine):
    assert changed(make("up", "ARGS=-e mlflow_workers=1")) > 0
    machine.run("grep --quiet 'MLFLOW_WORKERS=\"1\"' /etc/mlflow/mlflow.env")


def test_logs_shows_the_servers_lines(machine):
    following = subprocess.Popen(["make", "logs"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in following.stdout if line.startswith("{"))
    finally:
        following.terminate()
        following.wait()
    assert json.loads(line)["logger"]


def test_another_machine_on_a_taken_port_is_refused_in_a_sentence(machine):
    other = f"{machine.name}-2"
    try:
        done = subprocess.run(["make", "up", f"MACHINE={other}"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0
        assert f"Port {os.environ['PORT']} on 127.0.0.1 is taken" in done.stderr
        assert machines.run("docker", "inspect", other, check=False).returncode != 0
    finally:
        machines.remove(other)


def test_down_removes_the_machine_and_its_images(machine):
    make("down")
    assert machines.docker("ps", "--all", "--quiet", "--filter", f"name=^{machine.name}$") == ""
    assert machines.docker("images", "--quiet", os.environ["MACHINE_IMAGES"]) == ""
