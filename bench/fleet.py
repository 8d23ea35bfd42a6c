"""Group `fleet`: one run over several machines, with all to do and with nothing, beside the same run over one."""

from collections.abc import Iterator
from functools import partial

from figures import Row, at_most, side_by_side, timed
from machines import bare_image, installed_image, say, several_started, site
from provision import unchanged

SIZES = (1, 2, 4)


def fleet(repeat: int) -> Iterator[Row]:
    """Seconds of site.yml over so many machines, which Ansible works on side by side."""
    yield from provisioned(repeat)
    yield from as_they_should_be(repeat)


def provisioned(repeat: int) -> Iterator[Row]:
    """From the command on bare machines, which have no cache of downloads, until it has ended and all are healthy."""
    image = bare_image()

    def measure(number: int) -> float:
        with several_started(image, "fleet", number) as machines:

            def until_healthy() -> None:
                site(machines)
                for machine in machines:
                    machine.wait_healthy()

            seconds, _ = timed(until_healthy)
            say(f"fleet: {number} provisioned in {seconds:.1f} s")
            return seconds

    taken = side_by_side(repeat, {number: partial(measure, number) for number in SIZES})
    for number in SIZES[1:]:
        figure = f"fleet: {number} machines provisioned, beside one"
        yield Row(figure, "s", taken[number], taken[1], at_most(number, "one"))


def as_they_should_be(repeat: int) -> Iterator[Row]:
    """A run that has nothing to change on all of them, and on one of them."""
    number = SIZES[-1]
    say(f"fleet: {number} machines that are as they should be")
    with several_started(installed_image(), "fleet", number) as machines:
        site(machines)  # their names are not the image's; afterwards there is nothing to do
        taken = side_by_side(repeat, {"one": lambda: unchanged(machines[:1]), "all": lambda: unchanged(machines)})
    figure = f"fleet: run without changes over {number} machines, beside one"
    yield Row(figure, "s", taken["all"], taken["one"], at_most(number, "one"))
