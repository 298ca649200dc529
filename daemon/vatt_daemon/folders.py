"""Where everything of this user lives: configuration, data, runtime, log and cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vatt_client.connection import runtime_folder


@dataclass(frozen=True)
class Folders:
    """Where everything lives."""

    config: Path
    data: Path
    runtime: Path
    log: Path
    cache: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def keys(self) -> Path:
        return self.data / "keys"

    @property
    def database(self) -> Path:
        return self.data / "jobs.sqlite"

    @property
    def receipts(self) -> Path:
        """Where workers note which files of a job they are publishing (see outputs.py)."""
        return self.data / "receipts"

    @property
    def clients(self) -> Path:
        """The public keys of the named clients (see clients.py)."""
        return self.keys / "clients"

    @property
    def uploads(self) -> Path:
        """What clients have sent (see uploads.py)."""
        return self.data / "uploads"

    @property
    def results(self) -> Path:
        """Takes that wait to be fetched, a folder for each job."""
        return self.data / "results"

    def make(self) -> None:
        """Make the folders, for this user alone. Raises ForbiddenPath via OSError handling of the caller."""
        for folder in (self.config, self.data, self.runtime, self.log, self.cache, self.keys, self.receipts,
                       self.uploads, self.results):  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def folders() -> Folders:
    """The folders in use: below $VATT_HOME if it is set, else those of the platform."""
    home = os.environ.get("VATT_HOME")
    if home:
        root = Path(home).expanduser().absolute()
        return Folders(root / "config", root / "data", root / "runtime", root / "log", root / "cache")
    import platformdirs

    own = platformdirs.PlatformDirs("vatt", appauthor=False)
    return Folders(
        Path(own.user_config_dir),
        Path(own.user_data_dir),
        runtime_folder(),
        Path(own.user_log_dir),
        Path(own.user_cache_dir),
    )
