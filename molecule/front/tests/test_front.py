"""MLflow behind the front: for clients, for browsers, and for those who mean no good."""

import base64
import datetime
import json
import re
import subprocess
from pathlib import Path

from conftest import BESIDE, NAME, Beside, lines, own_certificate
from cryptography import x509
from fixtures import ROOT, Machine, Run, wait_until

testinfra_hosts = ["ansible://mlflow-front"]  # the machine beside it is a part of every test

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parent / "clients"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
SCREENS = ROOT / "build" / "screens"
ASK_LOCALLY = """
import ssl, urllib.request
unchecked = ssl._create_unverified_context()
print(urllib.request.urlopen("https://127.0.0.1/health", context=unchecked).status)
"""
SHOW_INFO = """
import socket
admin = socket.socket(socket.AF_UNIX)
admin.connect("/run/haproxy/admin.sock")
admin.sendall(b"show info\\n")
print(admin.makefile().read())
"""
NOW = datetime.datetime.now(datetime.UTC)


def run(front: Machine, settings: dict) -> Run:
    """Run the front's part of site.yml with the settings."""
    return front.playbook("--extra-vars", json.dumps(settings), playbook="playbooks/front.yml")


def converge(front: Machine, **settings: object) -> Run:
    done = run(front, settings)
    assert done.status == 0, done.output[-6000:]
    return done


def refuses(front: Machine, settings: dict) -> str:
    done = run(front, settings)
    assert done.status != 0, "it accepted what it should refuse"
    return done.said


def front_state(front: Machine) -> str:
    """What any change to the front would show in."""
    unit = front.run("systemctl show --property MainPID,ActiveEnterTimestampMonotonic haproxy")
    return unit + front.run(
        "find /etc/haproxy /etc/systemd/system/haproxy.service.d -printf '%p %C@ %m %u %g\\n' | sort"
    )


def test_client_works_over_tls_with_accounts_and_large_artifacts(client):
    client("log_everything.py")
    assert client(str(CLIENTS / "exchange_large_artifact.py"), "200")["same"]


def test_tls_is_modern_and_http_leads_to_it(front: Machine, beside: Beside):
    seen = beside.run(f"sslscan --no-colour {NAME}:443")
    for version in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert re.search(rf"{re.escape(version)} +disabled", seen), seen
    for version in ("TLSv1.2", "TLSv1.3"):
        assert re.search(rf"{re.escape(version)} +enabled", seen), seen
    ciphers = re.findall(r"^(?:Preferred|Accepted)\s+TLSv1\.\d\s+\d+ bits\s+(\S+)", seen, re.MULTILINE)
    assert len(ciphers) >= 5
    assert all(re.fullmatch(r"TLS_\w+(_GCM|_POLY1305)_\w+|ECDHE-ECDSA-.*(GCM|POLY1305).*", one) for one in ciphers), (
        ciphers
    )
    assert "vulnerable to heartbleed" not in re.sub("not vulnerable to heartbleed", "", seen)
    for old in ("-tls1", "-tls1_1"):
        offer = f"openssl s_client -connect {NAME}:443 {old} -cipher ALL:@SECLEVEL=0 </dev/null"
        assert beside.host.run(offer).rc != 0

    answer = beside.curl("--http2")
    assert answer.status == 200
    assert answer.head.startswith("http/2 200")
    assert "strict-transport-security: max-age=63072000" in answer.head
    assert "x-content-type-options: nosniff" in answer.head
    assert "server:" not in answer.head
    plain = beside.curl(scheme="http", path="/some?where=1")
    assert (plain.status, "location: https://mlflow.test/some?where=1" in plain.head) == (308, True)


def test_run_says_the_fingerprint_and_changes_nothing(front: Machine, beside: Beside):
    before = front_state(front)
    done = converge(front)
    assert beside.fingerprint() in done.said
    assert (done.changed, front_state(front)) == (0, before)


def test_strangers_to_the_name_and_misfits_are_refused(front: Machine, beside: Beside):
    for scheme in ("https", "http"):
        assert beside.curl("--header", "Host: evil.example", scheme=scheme).status == 421
        assert beside.curl("--header", "Host: mlflow.test.evil.example", scheme=scheme).status == 421
    assert beside.curl("--header", "X-Long: " + "x" * 20000, "--http1.1").status == 400
    assert beside.curl("--header", "X-Long: " + "x" * 20000, "--http2").status == 0  # HTTP/2 ends the stream
    assert beside.curl("--header", "Transfer-Encoding: chunked", "--data", "x", "--http1.1").status == 411
    beside.run("truncate --size=33M /tmp/big")
    runs = "/api/2.0/mlflow/runs/search"
    assert beside.curl("--http1.1", "--data-binary", "@/tmp/big", path=runs).status == 413
    assert beside.curl("--http1.1", "--data-binary", "@/tmp/big", path="/v1/traces").status == 413
    for path in ("/metrics", "//metrics", "/%6detrics"):
        assert beside.curl("--path-as-is", path=path).status == 403
    assert beside.host.run(f"curl --silent --max-time 5 http://{NAME}:8404/").rc == 7  # nobody listens there
    assert "haproxy_server_check_failures_total" in front.run(
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8404/metrics\").read().decode())'"
    )
    assert beside.curl(path=SEARCH).status == 200


def test_log_has_the_real_client_and_no_secret(front: Machine, beside: Beside):
    marked = "/api/2.0/mlflow/marked"
    answer = beside.curl("--header", "X-Forwarded-For: 203.0.113.9", path=f"{marked}?token=kept-private")
    assert answer.status == 404
    address = beside.run("hostname -I").split()[0]
    wait_until(lambda: [line for line in lines(front, "haproxy") if line.get("path") == marked], 10, "it is logged")
    for unit in ("haproxy", "mlflow"):
        line = next(line for line in lines(front, unit) if line.get("path") == marked)
        assert (line["client"], line["method"], line["status"]) == (address, "GET", 404)
    journal = front.run("journalctl --unit=haproxy --no-pager")
    for secret in ("kept-private", beside.authorization.split()[1]):
        assert secret not in journal


def test_limits_meet_one_client_and_not_the_other(front: Machine, beside: Beside):
    network = beside.run("hostname -I").split()[0].rsplit(".", 1)[0] + ".0/24"
    settings = {"haproxy_client_max_requests": 40, "haproxy_monitoring_networks": [network, "127.0.0.0/8"]}
    converge(front, **settings)
    assert beside.curl(scheme="http", name=f"{NAME}:8404", path="/metrics").status == 200
    assert beside.curl(path="/metrics").status == 404  # what MLflow says of it
    many = f"seq 100 | xargs -P4 -I@ curl -s -o /dev/null --cacert /srv/ca.pem -w '%{{http_code}}\\n' https://{NAME}/health"
    said = beside.run(many).split()
    assert set(said) == {"200", "429"}
    assert "retry-after: 2" in beside.curl().head
    honest = front.host.check_output("python3 -c %s", ASK_LOCALLY)
    assert honest == "200"
    converge(front)


def test_a_thousand_slow_connections_keep_nobody_out(front: Machine, beside: Beside):
    network = beside.run("hostname -I").split()[0] + "/32"
    converge(front, haproxy_unlimited_networks=[network])  # so that all of them are let in
    code = (HERE / "slow.py").read_text()
    command = ["docker", "exec", "--interactive", BESIDE, "python3", "-c", code, NAME, "1000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdout.readline().strip() == "open"
        for _ in range(20):
            assert beside.curl(path=SEARCH).status == 200
        wait_until(
            lambda: int(re.search(r"CurrConns: (\d+)", front.host.check_output("python3 -c %s", SHOW_INFO))[1]) < 50,
            60,
            "the slow ones are cut off",
        )
        said = json.loads(slow.communicate()[0])
    assert (said["opened"], said["open"]) == (1000, 0)
    converge(front)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdout.readline().strip() == "open"
        assert json.loads(slow.communicate()[0])["opened"] <= 200


def test_end_of_the_certificate_is_exported(front: Machine):
    front.run("systemctl start mlflow-check.service")
    exported = front.run("grep ^mlflow_certificate_expiry /var/lib/prometheus/node-exporter/mlflow.prom")
    path, seconds = re.fullmatch(r'mlflow_certificate_expiry_timestamp_seconds\{path="(.+)"\} (\d+)', exported).groups()
    served = x509.load_pem_x509_certificate(own_certificate(front).encode())
    assert path.startswith("/etc/haproxy/certificates/")
    assert int(seconds) == int(served.not_valid_after_utc.timestamp())


def test_certificate_is_replaced_under_load_and_a_bad_one_never(front: Machine, beside: Beside, issue, ca):
    old = beside.fingerprint()
    beside.trust(own_certificate(front), ca.cert_pem.bytes().decode())
    good = issue("good", NAME, "127.0.0.1")
    with beside.traffic(4, "--name", NAME) as seen:
        done = converge(front, **good)
        new = beside.fingerprint()
    assert (seen.failures, seen.answered > 20) == ([], True)
    assert new != old
    assert new in done.said

    before = front_state(front)
    other = issue("other", NAME, "127.0.0.1")
    expired = issue("expired", NAME, "127.0.0.1", ends=NOW - datetime.timedelta(days=1))
    foreign = issue("foreign", "elsewhere.test")
    virtual = {"haproxy_virtual_address": "10.77.0.9/24", "haproxy_virtual_peers": ["mlflow-front-browser"]}
    # The other rules are proven in plugins/tests/refused; here, that the role goes by them, and what the machine says.
    bad = [
        ({**good, "haproxy_key_file": other["haproxy_key_file"]}, "has a key that belongs to another certificate"),
        (foreign, "is for elsewhere.test, but not for mlflow.test, which haproxy_names has"),
        ({**good, "haproxy_key_file": ""}, "haproxy_certificate_file and haproxy_key_file belong together"),
        ({**good, **virtual, "haproxy_virtual_peers": ["nowhere.invalid"]}, "which this machine can't resolve"),
        ({**good, **virtual, "haproxy_virtual_peers": ["127.0.0.1"]}, "by none of its networks"),
        ({**good, **virtual, "haproxy_virtual_interface": "eth9"}, "haproxy_virtual_interface is eth9"),
        ({**good, "haproxy_monitoring_networks": ["10.0.0.1"]}, "10.0.0.1 has no prefix length"),
        (
            {**good, "haproxy_https_port": 22000, "haproxy_http_port": 5001},
            "HAProxy can't listen on port 5001, because",
        ),
        (
            {**good, "haproxy_servers": [{"name": "a", "address": "nowhere.invalid", "port": 5001}]},
            "This machine can't resolve nowhere.invalid, and haproxy_servers has no other",
        ),
        (
            {**good, "haproxy_timeout_seconds": 99999999},  # more milliseconds than it can count
            "HAProxy does not take the configuration, so nothing of what runs has changed",
        ),
    ]
    whole = front.playbook("--extra-vars", json.dumps({**expired, "mlflow_port": 5002}))
    assert whole.status != 0
    assert "The certificate of haproxy_certificate_file has expired on" in whole.said
    assert "TASK [mlops.mlflow.mlflow :" not in whole.output  # so MLflow's play has not begun
    for settings, said in bad:
        assert said in refuses(front, settings), settings
        assert front_state(front) == before, settings
        assert beside.fingerprint() == new

    # From files on the machine, and back to the self-signed one
    for name in ("certificate", "key"):
        pem = Path(other[f"haproxy_{name}_file"]).read_text()
        front.host.check_output(f"umask 077; printf %%s %s > /root/{name}.pem", pem)
    converge(front, haproxy_certificate_file="/root/certificate.pem", haproxy_key_file="/root/key.pem")
    assert beside.fingerprint() not in (old, new)
    converge(front)
    assert beside.fingerprint() == old
    assert len(front.run("ls /etc/haproxy/certificates").split()) == 2
    assert front.run("stat -c %a:%U /etc/haproxy/certificates/*.key") == "600:root"


def test_restart_of_mlflow_fails_no_request(front: Machine, beside: Beside):
    with beside.traffic(4, "--name", NAME) as seen:
        for _ in range(2):
            front.run("systemctl restart mlflow.service")
            assert beside.curl(path=SEARCH).status == 200
    assert seen.failures == []
    assert seen.answered >= 8  # each client, through each of the two


def test_server_is_drained_while_another_serves(front: Machine, beside: Beside):
    servers = [{"name": name, "address": "127.0.0.1", "port": 5001} for name in ("one", "two")]
    converge(front, haproxy_servers=servers)
    playbook = str(HERE / "drain.yml")

    def do(what: str) -> None:
        done = front.playbook("--extra-vars", json.dumps({"do": what, "server": "one"}), playbook=playbook)
        assert done.status == 0, done.output[-3000:]

    with beside.traffic(4, "--name", NAME) as seen:
        do("drain")
        for _ in range(5):
            assert beside.curl(path="/version").status == 200
        do("ready")
    assert seen.failures == []
    served = [line["server"] for line in lines(front, "haproxy") if line.get("path") == "/version"][-5:]
    assert served == ["two"] * 5
    converge(front)


def test_browser_shows_experiment_charts_and_picture(front: Machine, beside: Beside, client):
    made = client(str(CLIENTS / "log_pictures.py"))
    key = beside.run(
        f"openssl s_client -connect {NAME}:443 </dev/null 2>/dev/null | openssl x509 -noout -pubkey"
        " | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64"
    )
    beside.run("install --directory --owner=browser /tmp/screens")
    asked = {
        "url": f"https://{NAME}",
        "authorization": beside.authorization,
        "key": key.strip(),
        "screens": "/tmp/screens",
    }
    command = ["docker", "exec", "--interactive", "--user=browser", "--env=HOME=/home/browser", BESIDE, "python3", "-c"]
    done = subprocess.run(
        [*command, (HERE / "browser.py").read_text()],
        input=json.dumps({**asked, **made}),
        capture_output=True,
        text=True,
        timeout=400,
    )
    SCREENS.mkdir(parents=True, exist_ok=True)
    for name in beside.run("ls /tmp/screens").split():
        encoded = beside.run(f"base64 /tmp/screens/{name}")
        (SCREENS / name).write_bytes(base64.b64decode(encoded))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["protocol"] == "h2"
    assert "small-step" in seen["experiment"]
    assert "loss" in seen["charts"]
    assert "error.png" in seen["picture"]
