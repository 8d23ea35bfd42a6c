"""Groups `provision` and `idle`: how long a playbook run takes, with all to do and with nothing."""

import re
from collections.abc import Callable, Iterator
from functools import partial

from figures import Row, at_most, no_more_than, side_by_side, timed
from machines import HERE, ROOT, Machine, NotMeasured, bare_image, installed_image, say, site, started

REFERENCE = HERE / "reference"
LOCKS = ROOT / "roles" / "mlflow" / "files" / "locks"


def by_role(machine: Machine) -> None:
    machine.site()


def by_script(machine: Machine) -> None:
    machine.run("sh", "/root/bench/provision.sh")


def by_pip_playbook(machine: Machine) -> None:
    machine.playbook(REFERENCE / "pip_playbook.yml")


def provision(repeat: int) -> Iterator[Row]:
    """Seconds from the command on a bare machine until it has ended and ``/health`` answers.

    Every machine is fresh and has no cache of downloads.
    """
    image = bare_image()

    def measure(way: Callable[[Machine], None]) -> float:
        with started(image, "provision") as machine:
            for file in (REFERENCE / "provision.sh", LOCKS / "mlflow-3.17.2.txt", LOCKS / "uv.txt"):
                machine.copy(file, f"/root/bench/{file.name}")

            def until_healthy() -> None:
                way(machine)
                machine.wait_healthy()

            seconds, _ = timed(until_healthy)
            say(f"provision: {way.__name__} {seconds:.1f} s")
            return seconds

    ways = {"ours": by_role, "script": by_script, "pip": by_pip_playbook}
    taken = side_by_side(repeat, {name: partial(measure, way) for name, way in ways.items()})
    yield Row("provision: beside a shell script", "s", taken["ours"], taken["script"], at_most(1.35, "the script"))
    yield Row("provision: beside a pip playbook", "s", taken["ours"], taken["pip"], at_most(0.6, "the pip playbook"))


def idle(repeat: int) -> Iterator[Row]:
    """A run that has nothing to change: seconds, and trips to the machine.

    Each trip is one command that the connection runs, which Ansible shows as EXEC with -vvv: modules,
    and whatever else an action does there.
    """
    say("idle: a machine that is as it should be")
    with started(installed_image(), "idle") as machine:
        machine.site()  # this machine's name is not the image's; afterwards there is nothing to do
        seconds = side_by_side(repeat, {"ours": lambda: unchanged([machine])})["ours"]
        trips = len(re.findall(rf"^<{machine.name}> EXEC ", machine.site("-vvv"), re.MULTILINE))
    yield Row("idle: run without changes", "s", seconds, None, no_more_than(8, "s"))
    yield Row("idle: trips to the machine", "commands", trips, None, no_more_than(16))


def unchanged(machines: list[Machine]) -> float:
    """Seconds of a run over these machines, which must have nothing to change on any."""
    seconds, output = timed(lambda: site(machines))
    for machine in machines:
        if not re.search(rf"{machine.name} .* changed=0 .* failed=0 ", output):
            raise NotMeasured(f"The run had something to change on {machine.name}:\n{output[-2000:]}")
    say(f"  machines that had nothing to change, {len(machines)}: {seconds:.1f} s")
    return seconds
