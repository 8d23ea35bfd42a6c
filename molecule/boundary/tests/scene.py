"""Names that the tests and on_machine/attacker.py share, and what a program of root's did."""

from dataclasses import dataclass

from fixtures import Run as AnsibleRun

PRECIOUS = "/srv/boundary"
SECRET = f"{PRECIOUS}/secret"
MARK = f"{PRECIOUS}/ran-as-root"
CREATED = "/etc/created-by-an-attack"
OUT_OF_TIME = (124, 137)  # timeout(1)


@dataclass
class Done:
    """What a command did."""

    status: int
    output: str

    def assert_in_a_sentence(self) -> None:
        """It did its work or refused: in time, and without a word of Python's."""
        assert self.status not in OUT_OF_TIME, f"it did not end: {self.output[-2000:]}"
        assert "Traceback" not in self.output, self.output[-4000:]


class Run(AnsibleRun):
    """What a playbook did."""

    def assert_in_a_sentence(self, named: str = "") -> None:
        """It did its work, or refused with a sentence that names the path."""
        words = self.output
        assert "Traceback" not in words, words[-4000:]
        assert "MODULE FAILURE" not in words, words[-4000:]
        if self.status != 0:
            assert named in words, words[-4000:]
