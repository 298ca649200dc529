"""`python -m vatt_daemon`: the daemon in the foreground, logging to its log file (and to a terminal)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from vatt_core.errors import VattError
from vatt_daemon.folders import folders
from vatt_daemon.logs import prepare_logging
from vatt_daemon.settings import LogSettings, load_settings


def run(flags: dict[str, Any] | None = None) -> int:
    """Serve until told to stop. Returns the exit code; a daemon that cannot start says why in one line."""
    try:
        places = folders()
        prepare_logging(places, LogSettings())  # for what is wrong with the settings themselves
        settings = load_settings(flags=flags)
        prepare_logging(places, settings.log)
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
