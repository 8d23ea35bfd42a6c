"""One log format for every process of the service: JSON lines or text, to standard error.

The format is chosen by ``MLFLOW_SERVICE_LOG_FORMAT`` (``json`` or ``text``), the level by
``MLFLOW_LOGGING_LEVEL``. ``log_config.yaml`` beside this file is the one configuration: the
starting process loads it with `configure`, uvicorn and its workers by ``--log-config``.
MLflow's own configuration of the logging module is off (``MLFLOW_CONFIGURE_LOGGING=false``).
"""

import io
import logging
import logging.config
import os
import sys
import time
from pathlib import Path

import yaml

CONFIG_FILE = Path(__file__).with_name("log_config.yaml")
LEVEL = os.environ.get("MLFLOW_LOGGING_LEVEL", "INFO").upper()
RESERVED = ["color_message"]  # uvicorn's colours for a terminal


def formatter() -> logging.Formatter:
    """The formatter that the environment asks for; times are UTC, ISO 8601, in milliseconds."""
    pattern = "%(asctime)s %(levelname)s %(name)s %(message)s"
    if os.environ.get("MLFLOW_SERVICE_LOG_FORMAT", "json") == "text":
        chosen = logging.Formatter(pattern)
    else:
        from pythonjsonlogger.core import RESERVED_ATTRS
        from pythonjsonlogger.json import JsonFormatter

        chosen = JsonFormatter(
            pattern,
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, *RESERVED],
        )
    chosen.converter = time.gmtime
    chosen.default_time_format = "%Y-%m-%dT%H:%M:%S"
    chosen.default_msec_format = "%s.%03dZ"
    return chosen


def handler() -> logging.Handler:
    """A handler on the real standard error, whatever `capture_output` put in its place."""
    stderr = logging.StreamHandler(sys.__stderr__)
    stderr.setFormatter(formatter())
    return stderr


class _Lines(io.TextIOBase):
    """A text stream that turns each written line into a log record."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._log.info("%s", line.rstrip())
        return len(text)


def capture_output() -> None:
    """Send prints and warnings of this process to the log, so that no line has another format."""
    logging.captureWarnings(True)
    sys.stdout = _Lines("stdout")
    sys.stderr = _Lines("stderr")


def configure() -> None:
    """Configure the logging of this process."""
    logging.config.dictConfig(yaml.safe_load(CONFIG_FILE.read_text()))
    capture_output()


class Prioritized(logging.Formatter):
    """A formatter that tells the journal how bad a line is; see sd-daemon(3)."""

    def __init__(self, formatter: logging.Formatter, lowest: int) -> None:
        super().__init__()
        self.formatter = formatter
        self.lowest = lowest

    def format(self, record: logging.LogRecord) -> str:
        levels = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.NOTSET, self.lowest))
        priority = next(priority for level, priority in levels if record.levelno >= level)
        # Each line: one that a text of somebody else's begins could choose its own.
        return "\n".join(f"<{priority}>{line}" for line in self.formatter.format(record).splitlines())


def configure_for_journal(lowest: int = 6) -> None:
    """Log to the journal, where there is one; `lowest` is the priority there of what is neither error nor warning."""
    configure()
    if "JOURNAL_STREAM" in os.environ:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(Prioritized(handler.formatter, lowest))
