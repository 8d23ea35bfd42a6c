"""inventories/gce with Google's own plugin: which machines it finds, and one sentence where it finds none."""

import shlex
import subprocess
from collections.abc import Iterator

import pytest
from google_cloud import Google

ZONES = {
    "tracker-1": ("europe-west3-a", "mlflow-haproxy"),
    "tracker-2": ("europe-west3-b", "mlflow"),
    "tracker-3": ("us-central1-a", "mlflow"),
    "rows": ("us-central1-a", "postgresql"),
    "watch": ("europe-west3-b", "monitoring"),
}
INSIDE = "watch"  # has no address on the internet
NOTHING = (
    "No machine is in mlflow, haproxy, postgresql, pgbouncer, monitoring: {} finds no machine; see to the projects, zones "
    "and filters there, and to the machines' state and labels."
)


@pytest.fixture(scope="module")
def fleet(google: Google) -> Iterator[dict[str, dict]]:
    """Machines of ours and of others in three zones, on pages of two; what Google says of ours, by name."""
    for name, (zone, role) in ZONES.items():
        inside = {"networkInterfaces": [{}]} if name == INSIDE else {}
        google.machine(zone, name=name, labels={"mlflow": "tracking", "mlflow_role": role}, **inside)
    server = {"mlflow": "tracking", "mlflow_role": "mlflow"}
    google.machine("europe-west3-a", name="stopped", status="TERMINATED", labels=server)
    google.machine("europe-west3-a", name="starting", status="STAGING", labels=server)
    google.machine("europe-west3-a", name="others", labels=server | {"mlflow": "research"})
    google.machine("europe-west3-b", name="undecided", labels={"mlflow": "tracking"})
    google.machine("us-central1-a", name="unlabelled")
    google.page_size(2)
    yield {path.rpartition("/")[2]: each for path, each in google.cloud()["resources"].items()}
    google.forget_machines()


@pytest.fixture
def empty(google: Google) -> None:
    google.forget_machines()


@pytest.fixture
def cut_off(google: Google) -> Iterator[Google]:
    yield google
    google.unreachable()


def test_machines_of_all_pages_and_zones_are_in_the_groups_of_their_roles_and_no_others_are(node, google, fleet):
    google.forget_requests()
    found = node.found()
    assert {name: sorted(group["hosts"]) for name, group in found.items() if "hosts" in group} == {
        "gce": sorted(ZONES),
        "mlflow": ["tracker-1", "tracker-2", "tracker-3"],
        "haproxy": ["tracker-1"],
        "postgresql": ["rows"],
        "monitoring": ["watch"],
    }
    pages = [each for each in google.requests() if each["path"].endswith("/aggregated/instances")]
    assert len(pages) == 3
    assert {each["identity"] for each in pages} == {"reader@stand-in.iam.gserviceaccount.com"}


def test_zones_and_another_fleet_are_one_line_each(node, fleet):
    sources = node.inventory / "mlflow.gcp_compute.yml"
    said = sources.read_text()
    sources.write_text(said.replace("# zones: [europe-west3-a]", "zones: [us-central1-a]"))
    assert sorted(node.found()["gce"]["hosts"]) == ["rows", "tracker-3"]
    sources.write_text(said.replace("labels.mlflow = tracking", "labels.mlflow = research"))
    assert node.found()["gce"]["hosts"] == ["others"]


def test_address_is_external_internal_or_a_tunnel_by_one_word(node, fleet):
    ours = {name: fleet[name]["networkInterfaces"][0] for name in ZONES}
    inside = node.settings("ansible_host", gce_address="internal")
    assert inside == {name: [each["networkIP"]] for name, each in ours.items()}
    outside = node.settings("ansible_host", machines=f"gce:!{INSIDE}")
    assert outside == {name: [each["accessConfigs"][0]["natIP"]] for name, each in ours.items() if name != INSIDE}
    chosen = node.inventory / "group_vars" / "gce.yml"
    chosen.write_text(chosen.read_text().replace("gce_address: external", "gce_address: iap"))
    for name, (address, arguments) in node.settings("ansible_host", "ansible_ssh_common_args").items():
        assert address == name
        options = ssh_options(shlex.split(arguments), address)
        tunnel = f"gcloud compute start-iap-tunnel %h %p --listen-on-stdin --project=stand-in --zone={ZONES[name][0]}"
        assert options["proxycommand"] == tunnel
        assert options["hostkeyalias"] == f"compute.{fleet[name]['id']}"


def ssh_options(arguments: list[str], host: str) -> dict[str, str]:
    """What ssh itself makes of its arguments."""
    said = subprocess.check_output(["ssh", "-F", "none", "-G", *arguments, host], text=True)
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)


def test_machine_without_an_external_address_is_refused_in_a_sentence(node, fleet):
    said = node.run("ansible", INSIDE, "-m", "ansible.builtin.ping").said
    assert f"{INSIDE} has no external address; set gce_address to internal or iap." in said


def test_servers_have_accounts_a_front_and_the_bucket_by_their_own_identity(node, fleet):
    names = (
        "mlflow_auth_enabled",
        "mlflow_host",
        "mlflow_allow_anonymous",
        "mlflow_artifacts_location",
        "mlflow_gcp_auth",
    )
    for host, settings in node.settings(*names, "haproxy_names", gce_address="internal").items():
        if "mlflow" in ZONES[host][1].split("-"):
            assert settings[:5] == [True, "127.0.0.1", None, "gs://stand-in-mlflow", "metadata"]
        if "haproxy" in ZONES[host][1].split("-"):
            assert settings[5] == [fleet[host]["networkInterfaces"][0]["networkIP"]]


def test_all_plays_of_the_main_job_are_for_the_machines_with_their_role(node, fleet):
    said = node.succeeds("site", "--list-hosts").said
    assert "Provision MLflow TAGS: [] pattern: ['mlflow'] hosts (3)" in said
    assert "Provision the front TAGS: [] pattern: ['tracker-1'] hosts (1): tracker-1" in said
    assert "hosts (1): watch" in said
    limited = node.succeeds("backup", "--list-hosts", "--limit", "tracker-2").said
    assert "hosts (1): tracker-2" in limited


def test_key_that_can_not_be_read_is_one_sentence(node, fleet):
    broken = node.folder / "broken.json"
    broken.write_text('{"type": "service_account", ')
    node.environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(broken)
    assert node.refuses("site") == (
        f"{source(node)} finds no machine: there are no credentials that can be read (File {broken} is not a valid json file); "
        "run `gcloud auth application-default login`, or have GOOGLE_APPLICATION_CREDENTIALS name a service account's key."
    )


def source(node) -> str:
    return str(node.inventory / "mlflow.gcp_compute.yml")


def test_nobody_logged_in_is_one_sentence(node, fleet):
    del node.environment["GOOGLE_APPLICATION_CREDENTIALS"]
    said = node.refuses("site")
    assert (
        "finds no machine: there are no credentials that can be read (Your default credentials were not found); run"
        in said
    )


def test_revoked_key_is_one_sentence(node, google, fleet):
    google.revoke(node.log_in("leaver", "compute.instances.list"))
    said = node.refuses("site")
    assert "finds no machine: Google refuses the credentials (invalid_grant: Invalid JWT Signature.); run" in said


def test_missing_permission_is_one_sentence_with_the_permission(node, fleet):
    node.log_in("nobody")
    assert node.refuses("site") == (
        f"{source(node)} finds no machine: Google refuses (Required 'compute.instances.list' permission for 'projects/stand-in'); "
        "see to the project, its Compute Engine API and what the credentials may do there."
    )


def test_project_that_does_not_exist_is_one_sentence(node, fleet):
    settings = node.inventory / "mlflow.gcp_compute.yml"
    settings.write_text(settings.read_text().replace("[stand-in]", "[no-such-project]"))
    assert node.refuses("site") == NOTHING.format(source(node))


@pytest.mark.parametrize("name", ["www.googleapis.com", "oauth2.googleapis.com"])
def test_unreachable_api_is_one_sentence_with_its_name(node, cut_off, fleet, name):
    cut_off.unreachable(name)
    assert node.refuses("site").startswith(f"{source(node)} finds no machine: {name} can't be reached (")


def test_certificate_that_is_not_trusted_is_one_sentence(node, fleet):
    del node.environment["REQUESTS_CA_BUNDLE"]
    said = node.refuses("site")
    assert "can't be reached (" in said
    assert "certificate verify failed" in said
    assert said.endswith("REQUESTS_CA_BUNDLE where it has a proxy or a CA of its own.")


def test_role_that_no_machine_has_is_one_sentence_with_those_that_there_are(node, google, empty):
    google.machine("europe-west3-a", name="watch", labels={"mlflow": "tracking", "mlflow_role": "monitoring"})
    assert node.refuses("backup") == (
        f"No machine is in mlflow: {source(node)} finds watch; see to the projects, zones and filters there, "
        "and to the machines' state and labels."
    )
    assert "hosts (1): watch" in node.succeeds("site", "--list-hosts").said


def test_empty_result_is_one_sentence(node, empty):
    assert node.refuses("site") == NOTHING.format(source(node))


def test_machine_with_a_group_s_name_is_one_sentence(node, google, empty):
    google.machine("europe-west3-a", name="mlflow", labels={"mlflow": "tracking", "mlflow_role": "mlflow-haproxy"})
    assert node.refuses("site") == "mlflow is a machine and a group at once; give the machine another name."
