"""How the tests read what Ansible says."""

from fixtures import Run


def said(run: Run) -> str:
    """A run's output as one line, quotes as they were before YAML doubled them."""
    return " ".join(run.output.split()).replace("''", "'")
