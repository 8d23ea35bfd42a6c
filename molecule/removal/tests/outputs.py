"""How the tests read what Ansible says, and what they hand on."""

from fixtures import Run

ASIDE = "/root/aside"  # where the release waits while the machine has none, so that it need not be built again


def said(run: Run) -> str:
    """A run's output as one line, quotes as they were before YAML doubled them."""
    return " ".join(run.output.split()).replace("''", "'")
