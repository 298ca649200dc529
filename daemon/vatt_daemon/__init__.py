"""The VATT daemon: job store, scheduler, workers, server, and the `vatt` command. Imports no torch."""

__version__ = "0.1.0"
