"""Group `changing`: what clients notice of a restart and of upgrades; how long a backup and a restore take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from figures import Row, all_side_by_side, at_most, in_turns, no_more_than, timed
from machines import CACHE, ROOT, Machine, NotMeasured, bare_image, say, started
from searching import Experiment
from servers import BACKENDS, STOCK_FOLDER, Backend, Server, both, pair, stock_start

OLD, NEIGHBOUR, NEW = "3.16.1", "3.17.0", "3.17.2"  # from NEIGHBOUR to NEW, the schema stays
# What is measured, by the version that runs before. It ends with NEW.
CHANGES = {
    "upgrade with migration": OLD,
    "upgrade without migration": NEIGHBOUR,
    "restart": NEW,
}
CLIENTS = 4
RUNS = 10_000
CACHED = ("--extra-vars", f"@{ROOT}/molecule/shared/vars/cache.yml")  # uv looks for packages there first
BACKUPS = "/var/backups/mlflow"
PRISTINE = f"{STOCK_FOLDER}/pristine.db"
# What a person waits for before asking whether something is wrong
BACKUP_SECONDS, RESTORE_SECONDS = 10, 60


@dataclass
class Subject:
    """A server that is changed while clients use it.

    Attributes:
        bring: gives it a version, and with OLD also the database that both begin with. It runs then.
        change: restarts it, or brings it from a version to NEW, as its administrator would.
    """

    server: Server
    bring: Callable[[str], None]
    change: Callable[[str], None]

    def noticed(self, before: str) -> dict:
        """What clients notice of its change from a version to NEW; see clients.py, `Result`."""
        self.bring(before)
        self.server.rest()
        with self.server.machine.beside("clients.py", str(self.server.port), str(CLIENTS)) as seen:
            self.change(before)
        if seen["gave_up"]:
            raise NotMeasured(f"Clients of {self.server.unit} got no answer any more: {seen['failures']}")
        if (version := self.server.version()) != NEW:
            raise NotMeasured(f"{self.server.unit} should run {NEW} after the change, and runs {version}")
        return seen

    def all_noticed(self) -> dict[str, dict]:
        """What clients notice of each change. The server is stopped then."""
        taken = {}
        for change, before in CHANGES.items():
            seen = taken[change] = self.noticed(before)
            failed = f"{seen['failed']} failed {seen['failures'] or ''}"
            say(f"  {self.server.unit} {change}: longest wait {seen['longest_seconds']:.2f} s, {failed}")
        self.server.stop()
        return taken


def changing(repeat: int) -> Iterator[Row]:
    """Waits and failures of clients, ours beside stock; then seconds of backups and restores, ours."""
    yield from changes(repeat)
    for name, title in {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.items():
        yield from backups(repeat, name, title)


def changes(repeat: int) -> Iterator[Row]:
    say(f"changing: a machine with MLflow {OLD}, {NEIGHBOUR} and {NEW}")
    store = BACKENDS["sqlite"]
    with started(bare_image(), "changing", [CACHE]) as machine:
        machine.site(*CACHED, "--extra-vars", f"mlflow_version={OLD}")
        for version in (NEIGHBOUR, NEW):
            machine.site(*CACHED, "--extra-vars", f"mlflow_version={version}", "--tags", "release")
        ours, stock = pair(machine, store)
        Experiment.empty(ours).grow(RUNS)
        machine.run("cp", "--preserve=ownership", ours.database, PRISTINE)
        subjects = {"stock": stock_subject(stock, store), "ours": our_subject(ours)}
        taken = in_turns(repeat, {name: subject.all_noticed for name, subject in subjects.items()})
    for change in CHANGES:
        waits = {name: median(seen[change]["longest_seconds"] for seen in results) for name, results in taken.items()}
        failed = {name: max(seen[change]["failed"] for seen in results) for name, results in taken.items()}
        figure = f"changing: {change}"
        yield Row(f"{figure}, longest wait", "s", waits["ours"], waits["stock"], at_most(1, "stock"))
        yield Row(f"{figure}, failed requests", "requests", failed["ours"], failed["stock"], no_more_than(0))


def our_subject(server: Server) -> Subject:
    machine = server.machine

    def bring(version: str) -> None:
        server.start()
        if server.version() == version:
            return
        options = [f"mlflow_rollback_to={version}"]
        if version == OLD:
            kept = machine.run("ls", BACKUPS).split()  # by their time
            options.append(f"mlflow_backup={[name for name in kept if name.endswith(f'before-{NEW}')][-1]}")
        machine.playbook(ROOT / "playbooks" / "rollback.yml", "--extra-vars", " ".join(options))

    def change(before: str) -> None:
        if before == NEW:
            machine.run(*server.start_command)
        else:
            machine.site(*CACHED, "--extra-vars", f"mlflow_version={NEW}")

    return Subject(server, bring, change)


def stock_subject(server: Server, store: Backend) -> Subject:
    """Stock, changed as Compose does it for another image: stop, migrate where it has to, start from the other venv."""
    machine = server.machine
    releases = {version: release(machine, version) for version in (OLD, NEIGHBOUR, NEW)}

    def bring(version: str) -> None:
        server.stop()
        if version == OLD:
            machine.run("cp", "--preserve=ownership", PRISTINE, server.database)
        server.start_command = stock_start(store, releases[version])
        server.start()

    def change(before: str) -> None:
        steps = ["systemctl stop mlflow-stock.service"]
        if before == OLD:
            as_user = f"runuser --user mlflow -- env HOME={STOCK_FOLDER} MLFLOW_DISABLE_TELEMETRY=true"
            steps.append(f"{as_user} {releases[NEW]}/bin/mlflow db upgrade {store.stock_uri}")
        steps.append(" ".join(stock_start(store, releases[NEW])))
        machine.inside("inside.py", "start", str(server.port), "sh", "-c", " && ".join(steps))

    return Subject(server, bring, change)


def release(machine: Machine, version: str) -> str:
    """Folder of the release with this version; the machine is fresh and has one of each."""
    return machine.run("sh", "-c", f"ls --directory /opt/mlflow/releases/{version}-*").strip()


def backups(repeat: int, backend: str, title: str) -> Iterator[Row]:
    """Seconds of a backup and of its restore, as the one who types the command waits for them."""
    say(f"changing: a machine with {RUNS} runs on {title}")
    store = BACKENDS[backend]
    settings = ["--extra-vars", store.settings] if store.settings else []
    with both(f"changing-{backend}", backend) as (ours, _):
        machine = ours.machine
        experiment = Experiment.empty(ours)
        experiment.grow(RUNS)

        def measure() -> dict[str, float]:
            ours.start()
            ours.rest()
            plain, _ = timed(lambda: plain_copy(ours))
            backup, _ = timed(lambda: machine.run("systemctl", "start", "mlflow-backup.service"))
            kept = machine.run("ls", BACKUPS).split()[-1]
            ours.stop()
            ours.fill(experiment.id, RUNS + 1, RUNS + 100)  # which the restore has to take away again
            ours.start()
            ours.rest()
            options = ["--extra-vars", f"mlflow_backup={kept}", *settings]
            restore, _ = timed(lambda: machine.playbook(ROOT / "playbooks" / "restore.yml", *options))
            if not ours.is_count(experiment.id, RUNS):
                raise NotMeasured(f"The store on {title} does not have {RUNS} runs after {kept} was restored")
            ours.stop()
            say(f"  backup {backup:.2f} s, plain {plain:.2f} s, restore {restore:.2f} s")
            return {"backup": backup, "plain": plain, "restore": restore}

        medians = all_side_by_side(repeat, {"ours": measure})["ours"]
    figure, runs = "changing:", f"of {RUNS:,} runs, {title}"
    target = no_more_than(BACKUP_SECONDS, "s")
    yield Row(f"{figure} backup {runs}", "s", medians["backup"], medians["plain"], target)
    yield Row(f"{figure} restore {runs}", "s", medians["restore"], None, no_more_than(RESTORE_SECONDS, "s"))


def plain_copy(server: Server) -> None:
    """What one would do without us: pg_dump, or SQLite's own online copy, of the same database."""
    if server.database.startswith("/"):
        copy = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))"
        server.machine.run("python3", "-c", copy, server.database, f"{STOCK_FOLDER}/plain.db", user=server.filled_by)
    else:
        dump = ["pg_dump", "--format=custom", "--file=/tmp/plain.dump", server.database]
        server.machine.run(*dump, user=server.filled_by)
