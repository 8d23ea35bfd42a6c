"""What haproxy_state finds right and wrong with a certificate, and how a front is joined with servers."""

import datetime
import socket
import time

import front
import haproxy_state
import pytest
import trustme

NAMES = ["mlflow.example.com", "10.0.0.5"]
CA = trustme.CA()
NOW = time.time()


def pem(made: trustme.LeafCert) -> tuple[str, str]:
    return b"".join(blob.bytes() for blob in made.cert_chain_pems).decode(), made.private_key_pem.bytes().decode()


CHAIN, KEY = pem(CA.issue_cert(*NAMES))


def test_good_pair_is_described():
    found = haproxy_state.judge(CHAIN, KEY, NAMES, NOW)
    assert (found["error"], found["missing"], sorted(found["names"])) == ("", [], sorted(NAMES))
    assert len(found["fingerprint"]) == 95
    assert found["id"] == haproxy_state.judge(CHAIN, KEY, [], NOW)["id"]


def test_another_pair_has_another_id():
    other = haproxy_state.judge(*pem(CA.issue_cert(*NAMES)), NAMES, NOW)
    assert other["id"] != haproxy_state.judge(CHAIN, KEY, NAMES, NOW)["id"]


def test_chain_in_order_is_accepted_and_out_of_order_refused():
    between = CA.create_child_ca()
    chain, key = pem(between.issue_cert(*NAMES))
    assert haproxy_state.judge(chain, key, NAMES, NOW)["error"] == ""
    wrong = CHAIN + between.cert_pem.bytes().decode()
    assert "is not in order" in haproxy_state.judge(wrong, KEY, NAMES, NOW)["error"]


@pytest.mark.parametrize(
    "chain, key, said",
    [
        ("", KEY, "can't be used"),
        (CHAIN, "", "has a key file without a private key in PEM"),
        (CHAIN, pem(CA.issue_cert("other"))[1], "belongs to another certificate"),
        ("nonsense", KEY, "can't be used"),
    ],
)
def test_what_can_not_serve_is_said(chain, key, said):
    found = haproxy_state.judge(chain, key, NAMES, NOW)
    assert said in found["error"]
    assert found["missing"] == NAMES


def test_expired_certificate_is_refused():
    ends = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    made = CA.issue_cert(*NAMES, not_after=ends, not_before=ends - datetime.timedelta(days=2))
    assert "has expired on" in haproxy_state.judge(*pem(made), NAMES, NOW)["error"]


@pytest.mark.parametrize(
    "names, wanted, covered",
    [
        (["a.example.com"], "A.example.com", True),
        (["*.example.com"], "a.example.com", True),
        (["*.example.com"], "a.b.example.com", False),
        (["*.example.com"], "example.com", False),
        (["localhost"], "localhost", True),
        (["example.com"], "evil-example.com", False),
    ],
)
def test_names_stand_for_themselves_and_one_label(names, wanted, covered):
    assert haproxy_state.covers(names, wanted) is covered


def test_networks_are_told_from_addresses():
    assert haproxy_state.wrong_networks(["10.0.0.0/8", "::1/128"]) == []
    assert "no prefix length" in haproxy_state.wrong_networks(["10.0.0.1"])[0]
    assert haproxy_state.wrong_networks(["10.0.0.1/8"])


HOSTS = {
    "one": {"mlflow_port": 5002, "haproxy_names": ["MLflow.example.com", "10.0.0.5"]},
    "two": {"mlflow_host": "0.0.0.0", "ansible_host": "10.0.0.7", "haproxy_https_port": 8443},
    "three": {"mlflow_host": "10.0.0.8"},
}


def test_server_is_known_by_address_or_name_of_either_family():
    assert haproxy_state.resolve("127.0.0.1", socket.AF_UNSPEC) == "127.0.0.1"
    assert haproxy_state.resolve("::1", socket.AF_UNSPEC) == "::1"
    assert haproxy_state.resolve("localhost", socket.AF_UNSPEC) in ("127.0.0.1", "::1")


def test_front_reaches_its_own_machine_over_loopback_and_others_by_address():
    assert front.front_server("one", HOSTS, "one") == {"name": "one", "address": "127.0.0.1", "port": 5002}
    assert front.front_server("two", HOSTS, "two")["address"] == "127.0.0.1"
    assert front.front_server("two", HOSTS, "one") == {"name": "two", "address": "10.0.0.7", "port": 5001}
    assert front.front_server("three", HOSTS, "three")["address"] == "10.0.0.8"
    assert front.front_server("three", HOSTS, "one")["address"] == "10.0.0.8"


def test_fronts_with_the_same_virtual_address_reach_each_other():
    fronts = {
        "one": {"haproxy_virtual_address": "10.0.0.9/24"},
        "two": {"haproxy_virtual_address": "10.0.0.9/24", "ansible_host": "10.0.0.7"},
        "alone": {"haproxy_virtual_address": "10.0.0.8/24"},
    }
    assert [front.front_peers(each, fronts, fronts) for each in fronts] == [["10.0.0.7"], ["one"], []]


def test_front_leaves_out_what_listens_on_another_machines_loopback():
    assert front.front_server("one", HOSTS, "two") == {}


def test_front_has_its_name_in_the_inventory_where_it_has_no_other():
    assert front.front_names("one", HOSTS) == ["MLflow.example.com", "10.0.0.5"]
    assert front.front_names("two", HOSTS) == ["two"]
    assert front.front_origins("one", HOSTS) == ["https://mlflow.example.com", "https://10.0.0.5"]
    assert front.front_origins("two", HOSTS) == ["https://two:8443"]
