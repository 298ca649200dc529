"""`python -m vatt_daemon.cli`: the same as `vatt`."""

from vatt_daemon.cli import main

main()
