"""playbooks/gce.yml: what the settings name comes about, stays, and goes by its label."""

from pathlib import Path

import pytest
from conftest import ADMINISTRATOR, PROJECT, ControlNode
from google_cloud import Google

BUCKET = f"{PROJECT}-mlflow"
ACCOUNT = f"mlflow-tracking@{PROJECT}.iam.gserviceaccount.com"
WATCH = {"name": "watch", "role": "monitoring", "type": "e2-small", "zone": "europe-west3-b", "external": False}
SETTINGS = {"gce_machines": [{"name": "tracker", "role": "mlflow-haproxy"}, WATCH]}
DATA = ["tracker", "watch", f"gs://{BUCKET}"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, google: Google) -> ControlNode:
    node = ControlNode(tmp_path_factory.mktemp("node"), google)
    node.key = node.log_in("administrator", *ADMINISTRATOR)
    google.machine("europe-west3-a", name="others", labels={"mlflow": "research", "mlflow_role": "mlflow"})
    return node


def kept(google: Google) -> list[str]:
    """Everything that there is, in one list."""
    cloud = google.cloud()
    compute = [path.removeprefix(f"projects/{PROJECT}/") for path in cloud["resources"]]
    return sorted([*compute, *cloud["accounts"], *(f"gs://{name}" for name in cloud["buckets"])])


def test_fleet_comes_about_stays_and_goes_with_its_data_only_where_that_is_confirmed(node: ControlNode, google: Google):
    others = kept(google)
    checked = node.succeeds("gce", "--check", **SETTINGS)
    assert (
        f"Missing and to be made: {ACCOUNT}, gs://{BUCKET}, mlflow-tracking-clients, mlflow-tracking-ssh, tracker, watch;"
        in checked.said
    )
    assert kept(google) == others

    assert node.succeeds("gce", **SETTINGS).changed == 6
    assert kept(google) == sorted([*others, *everything()])
    found = node.found()
    assert found["mlflow"]["hosts"] == found["haproxy"]["hosts"] == ["tracker"]
    assert found["monitoring"]["hosts"] == ["watch"]
    check_what_was_made(google.cloud())

    assert node.succeeds("gce", **SETTINGS).changed == 0

    node.upload(node.key, BUCKET, "model", b"weights")
    refused = node.refuses("gce", **SETTINGS, gce_state="absent", gce_purge=True, gce_purge_confirm="tracker")
    assert refused == (
        f"gce_purge deletes for good from {PROJECT}: {', '.join(DATA)}; nothing has been touched yet. "
        f"If that is meant, run it again with -e gce_purge_confirm={','.join(DATA)}."
    )
    assert kept(google) == sorted([*others, *everything()])

    went = node.succeeds("gce", **SETTINGS, gce_state="absent")
    assert f"Kept: {', '.join(DATA)}." in went.said
    assert kept(google) == sorted([*others, *data()])
    assert [each["name"] for each in google.objects(BUCKET)] == ["model"]

    confirmed = ",".join(DATA)
    node.succeeds("gce", **SETTINGS, gce_state="absent", gce_purge=True, gce_purge_confirm=confirmed)
    assert kept(google) == others


def data() -> list[str]:
    return ["zones/europe-west3-a/disks/tracker", "zones/europe-west3-b/disks/watch", f"gs://{BUCKET}"]


def everything() -> list[str]:
    machines = ["zones/europe-west3-a/instances/tracker", "zones/europe-west3-b/instances/watch"]
    rules = ["global/firewalls/mlflow-tracking-clients", "global/firewalls/mlflow-tracking-ssh"]
    return [*data(), *machines, *rules, ACCOUNT]


def check_what_was_made(cloud: dict[str, dict]) -> None:
    """Who may use the bucket, who gets in, and what the machines are."""
    bucket = cloud["buckets"][BUCKET]
    assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert bucket["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert bucket["softDeletePolicy"]["retentionDurationSeconds"] == str(30 * 86400)
    assert bucket["location"] == "EUROPE-WEST3"
    (binding,) = cloud["policies"][BUCKET]["bindings"]
    assert binding == {"role": "roles/storage.objectUser", "members": [f"serviceAccount:{ACCOUNT}"]}
    made = {path.removeprefix(f"projects/{PROJECT}/"): each for path, each in cloud["resources"].items()}
    for name, ports in (("clients", ["80", "443"]), ("ssh", ["22"])):
        rule = made[f"global/firewalls/mlflow-tracking-{name}"]
        assert rule["allowed"] == [{"IPProtocol": "tcp", "ports": ports}]
        assert rule["targetTags"] == [f"mlflow-tracking-{name}"]
    tracker, watch = made["zones/europe-west3-a/instances/tracker"], made["zones/europe-west3-b/instances/watch"]
    assert tracker["tags"]["items"] == ["mlflow-tracking-ssh", "mlflow-tracking-clients"]
    assert watch["tags"]["items"] == ["mlflow-tracking-ssh"]
    assert "accessConfigs" in tracker["networkInterfaces"][0]
    assert not watch["networkInterfaces"][0].get("accessConfigs")
    assert [each["autoDelete"] for each in tracker["disks"]] == [False]
    assert tracker["serviceAccounts"][0]["email"] == ACCOUNT


def test_what_is_somebody_else_s_is_refused_and_not_touched(node: ControlNode, google: Google):
    before = google.cloud()
    machines = [{"name": "others", "role": "mlflow"}]
    said = node.refuses("gce", gce_machines=machines)
    assert said.startswith(
        f"others in {PROJECT} is there already and not of the fleet tracking; choose other names, or"
    )
    assert google.cloud() == before


def writes(google: Google) -> list[dict]:
    """The requests by which something could have been changed."""
    return [request for request in google.requests() if request["method"] != "GET" and request["path"] != "/token"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            {"gce_project": "my-project"},
            "gce_project is my-project; put the id of your project in its place, there and in",
        ),
        (
            {"gce_machines": [{"name": "mlflow", "role": "mlflow"}]},
            "gce_machines has the name mlflow, which is a group",
        ),
        (
            {"gce_ssh_networks": ["anywhere"]},
            "gce_client_networks or gce_ssh_networks has anywhere; a network is written",
        ),
    ],
)
def test_wrong_setting_is_one_sentence_before_google_is_asked(node: ControlNode, google: Google, setting, sentence):
    before = writes(google)
    assert node.refuses("gce", **setting).startswith(sentence)
    assert writes(google) == before


def test_administrator_who_may_not_is_told_so(tmp_path: Path, google: Google):
    node = ControlNode(tmp_path, google)
    node.log_in("reader", "compute.instances.list")
    assert "Required 'storage.buckets.get' permission" in node.refuses("gce", **SETTINGS)
