"""Watched folders: clips that are dropped in get captions and soundtracks. A client of the daemon like every plugin.

Others use: `Runner` (runner), `Pace` (intake), `WatchState` (state), `check_options` (options). What is kept on disk is the
state's SQLite file; what runs is one `Runner` per user.
"""

from vatt_watch.intake import Pace
from vatt_watch.options import check_options
from vatt_watch.runner import Runner
from vatt_watch.state import WatchedFolder, WatchState

__all__ = ["Pace", "Runner", "WatchState", "WatchedFolder", "check_options"]
