"""`python -m vatt_daemon`: the daemon in the foreground, logging to its log file (and to a terminal)."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
import sys
from typing import Any

from vatt_core.errors import VattError
from vatt_daemon.settings import Folders, folders, load_settings


def prepare_logging(places: Folders) -> None:
    """Log to daemon.log (5 files of 2 MiB) and, where somebody sits at a terminal, to standard error."""
    handlers: list[logging.Handler] = []
    with contextlib.suppress(OSError):
        places.log.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                places.log / "daemon.log", maxBytes=2 << 20, backupCount=4, encoding="utf-8"
            )
        )
    if sys.stderr is not None and sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO,
        handlers=handlers or [logging.NullHandler()],
        force=True,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def run(flags: dict[str, Any] | None = None) -> int:
    """Serve until told to stop. Returns the exit code; a daemon that cannot start says why in one line."""
    try:
        places = folders()
        prepare_logging(places)
        settings = load_settings(flags=flags)
        from vatt_daemon.server import serve

        serve(settings, places)
    except VattError as error:
        if os.environ.get("VATT_DEBUG"):
            raise
        logging.getLogger("vatt_daemon").error("%s", error.message)
        if not sys.stderr.isatty():  # on a terminal the log has said it
            print(error.message, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vatt_daemon", description="The VATT daemon in the foreground.")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.NAME=VALUE",
        dest="flags",
        help="a setting, e.g. server.port=5570",
    )
    options = parser.parse_args()
    sys.exit(run(dict(item.partition("=")[::2] for item in options.flags)))


if __name__ == "__main__":
    main()
