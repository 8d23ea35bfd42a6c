"""Group `front`: what a request costs through HAProxy and TLS, beside the same server without them."""

import json
from collections.abc import Iterator
from statistics import median

from figures import Row, at_least, no_more_than
from machines import CACHE, ROOT, Machine, NotMeasured, installed_image, run, say, started
from servers import BACKENDS, Server, pair
from serving import EXPERIMENTS_SEARCH, LOG_BATCH, RUNS, RUNS_SEARCH, Store

CLIENTS = 64
SECONDS = 5.0
HTTPS = 443
NAME = "127.0.0.1"


def provision(machine: Machine) -> None:
    """MLflow on loopback and the front before it, without a limit for the one address that all of the load has."""
    settings = {
        "haproxy_names": [NAME],
        "haproxy_unlimited_networks": ["127.0.0.0/8"],
        "mlflow_host": "127.0.0.1",
    }
    run(
        *("ansible-playbook", "--inventory", str(ROOT / "bench" / "front.yml"), str(ROOT / "playbooks" / "site.yml")),
        *("--extra-vars", json.dumps({**settings, "ansible_host": machine.name})),
    )


def front(repeat: int) -> Iterator[Row]:
    """Milliseconds for one client and answers per second for many, through the front beside direct, in turns."""
    say("front: a machine with MLflow and HAProxy")
    with started(installed_image(), "front", volumes=[CACHE]) as machine:
        provision(machine)
        direct, _ = pair(machine, BACKENDS["sqlite"])
        direct.start()
        fronted = Server(**{**vars(direct), "port": HTTPS, "tls": True})
        stores = {"direct": Store.seeded(direct, RUNS)}
        stores["front"] = Store(fronted, stores["direct"].bodies)
        for store in stores.values():
            store.warm()
        for path in (LOG_BATCH, RUNS_SEARCH, EXPERIMENTS_SEARCH):
            taken: dict[str, list[float]] = {name: [] for name in stores}
            for _ in range(repeat):
                for name, store in stores.items():
                    taken[name].append(store.latency(path))
            medians = {name: median(times) for name, times in taken.items()}
            figure = f"front: {path}, 1 client, p50, beside direct"
            yield Row(figure, "ms", medians["front"], medians["direct"], no_more_than(medians["direct"] + 2, "ms"))
        for path in (RUNS_SEARCH, LOG_BATCH):
            rates = {}
            for name, store in stores.items():
                result = store.load(path, CLIENTS, SECONDS)
                if result["failures"]:
                    raise NotMeasured(f"{path} failed through {name}: {result['failures']}")
                rates[name] = result["per_second"]
                store.settle()
            figure = f"front: {path}, {CLIENTS} clients, beside direct"
            yield Row(figure, "per s", rates["front"], rates["direct"], at_least(0.85, "direct"))
