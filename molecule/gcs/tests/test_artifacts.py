"""Large artifacts, clients that go to the bucket themselves, and runs that must leave the bucket alone."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import machine as machines
from evidence import BUCKET, CLIENTS, EXCHANGE, FOLDER, provision, to_storage
from google_cloud import CA_BUNDLE

LARGE_MIB = 512  # beyond the size at which clients ask whether to go to the store themselves
# Measured: see the test. A server that held the artifact, or a second copy of each chunk, would be far above.
GROWTH_LIMIT_MIB = 150

# Prints the most memory that the service's processes had together, without page cache, until standard input is closed.
SAMPLER = """
import glob, sys, threading
stop = threading.Event()
def used():
    total = 0
    for path in glob.glob("/proc/[0-9]*/cgroup"):
        try:
            if "mlflow.service" in open(path).read():
                status = dict(line.split(":", 1) for line in open(path.replace("cgroup", "status")))
                total += sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem"))
        except (OSError, KeyError):
            pass
    return total
before = most = used()
print("started", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
while not stop.wait(0.1):
    most = max(most, used())
print(before // 1024, most // 1024)
"""


@contextmanager
def sampled_memory(machine) -> Iterator[dict[str, int]]:
    """MiB of the service before the block, and the most of them while it lasted."""
    command = ["docker", "exec", "--interactive", machine.name, "python3", "-c", SAMPLER]
    sampler = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert sampler.stdout.readline().strip() == "started"
    seen: dict[str, int] = {}
    try:
        yield seen
    finally:
        said, _ = sampler.communicate(timeout=60)
    seen.update(zip(("before", "most"), map(int, said.split()), strict=True))


def test_models_and_artifacts_of_a_training_job_come_back(machine):
    assert machine.client("log_everything.py")["run_id"]


def test_large_artifact_comes_back_and_the_server_stays_small(machine):
    for _ in range(4):  # so that every worker has loaded Google's libraries
        machine.client(EXCHANGE)
    with sampled_memory(machine) as memory:
        sent = machine.client(str(CLIENTS / "exchange_large_artifact.py"), str(LARGE_MIB))
    assert sent["bytes"] == LARGE_MIB * 2**20
    print(memory)
    assert memory["before"] > 100  # the sampler has found the service
    assert memory["most"] - memory["before"] < GROWTH_LIMIT_MIB


def test_clients_with_large_files_are_not_sent_to_google(machine):
    """From 500 MiB on, a client asks the server whether to go to the store itself (multipart upload)."""
    with urllib.request.urlopen(f"{machine.url}/api/3.0/mlflow/server-info", timeout=30) as answer:
        offered = json.load(answer)
    assert offered["multipart_uploads_enabled"] is False
    assert offered["multipart_downloads_enabled"] is False


def test_check_mode_writes_nothing_to_the_bucket(machine, google, tmp_path):
    (tmp_path / "key.json").write_text(json.dumps(google.service_account("checked")))
    key = {"mlflow_gcp_auth": "key_file", "mlflow_gcp_key_file": str(tmp_path / "key.json")}
    state, objects = machine.state(), google.objects(BUCKET)
    for settings, changes in (({}, False), ({**key, "mlflow_artifacts_folder": "elsewhere"}, True)):
        checked = provision(machine, tmp_path, settings, "--check", "--diff")
        assert checked.status == 0, checked.output[-3000:]
        assert (checked.changed > 0) is changes
    assert {request["method"] for request in to_storage(google)} <= {"GET"}
    assert google.objects(BUCKET) == objects
    assert machine.state() == state


def client_on_the_machine(machine, key):
    """Run the exchange as a user who has a key of his own and no rights."""
    write = "umask 077 && mkdir -p /srv/nobody && cat > /srv/nobody/key.json && chown -R nobody /srv/nobody"
    machines.docker("exec", "--interactive", machine.name, "sh", "-c", write, input=json.dumps(key))
    variables = {
        "HOME": "/srv/nobody",
        "GOOGLE_APPLICATION_CREDENTIALS": "/srv/nobody/key.json",
        "REQUESTS_CA_BUNDLE": CA_BUNDLE,
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{machine.port}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "--chdir=/srv/nobody"]
    command += [f"{name}={value}" for name, value in variables.items()]
    python = ["/opt/mlflow/current/bin/python", "-"]
    script = (CLIENTS / "exchange_artifacts.py").read_text()
    said = machines.docker("exec", "--interactive", machine.name, *command, *python, input=script)
    machine.run("rm -r /srv/nobody")
    return json.loads(said.splitlines()[-1])


def test_clients_go_to_the_bucket_themselves_with_their_own_credentials(machine, google):
    machine.converge(mlflow_artifacts_proxied=False)
    key = google.service_account("client")
    google.forget_requests()
    made = client_on_the_machine(machine, key)
    place = f"{FOLDER}/{made['experiment_id']}/{made['run_id']}/artifacts"
    assert made["artifact_uri"] == f"gs://{BUCKET}/{place}"
    objects = {found["name"]: found["md5Hash"] for found in google.objects(BUCKET)}
    assert {f"{place}/{name}": md5 for name, md5 in made["files"].items()}.items() <= objects.items()
    assert {request["identity"] for request in to_storage(google)} == {key["client_email"]}
