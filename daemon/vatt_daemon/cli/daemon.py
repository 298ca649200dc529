"""`vatt daemon start|stop|status|run`, and `vatt status`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from vatt_client import Client, connection, errors

from vatt_daemon import launch
from vatt_daemon.cli.jobs import Connection, use_connection
from vatt_daemon.cli.output import print_json

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Start, stop and look at the daemon.")
status_app = typer.Typer(pretty_exceptions_enable=False)

Port = Annotated[int | None, typer.Option("--port", help="Port for jobs; left out, as set, or a free one.")]
ControlPort = Annotated[int | None, typer.Option("--control-port", help="Port for control messages.")]


def _flags(port: int | None, control_port: int | None) -> dict[str, Any]:
    given = {"server.port": port, "server.control_port": control_port}
    return {key: value for key, value in given.items() if value is not None}


@app.command()
def start(port: Port = None, control_port: ControlPort = None) -> None:
    """Start the daemon in the background. One that runs already is left alone."""
    try:
        with Client(name="vatt", connection_file=connection.own_file()) as client:
            print(f"The daemon is running already (process {client.welcome.pid}).")
            return
    except errors.DaemonNotRunning:
        pass
    with launch.start_daemon(_flags(port, control_port)) as client:
        print(f"The daemon is running (process {client.welcome.pid}).")


@app.command()
def run(port: Port = None, control_port: ControlPort = None) -> None:
    """Run the daemon in the foreground, until Ctrl-C."""
    from vatt_daemon.__main__ import run as run_daemon

    raise typer.Exit(run_daemon(_flags(port, control_port)))


@app.command()
def stop() -> None:
    """Stop the daemon. What runs goes back to the queue and is done after the next start."""
    print("The daemon has stopped." if launch.stop_daemon() else "No daemon is running.")


@app.command()
@status_app.command()
def status(
    connection_file: Connection = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What the daemon does. The exit code is 7 when none runs."""
    use_connection(connection_file)
    with Client(name="vatt") as client:
        now = client.status()
    if as_json:
        print_json(now.to_dict())
        return
    worker = now.worker
    print(f"daemon   process {now.pid}, up for {now.uptime:.0f} s")
    print(f"jobs     {len(now.running)} running, {now.queued} waiting, {now.counts.get('done', 0)} done, "
          f"{now.counts.get('failed', 0)} failed, {now.counts.get('cancelled', 0)} cancelled")  # fmt: skip
    if worker.get("waits_before_restart"):
        print(f"worker   died too often; the next start is in {worker['waits_before_restart']:.0f} s ({worker['log']})")
    if now.remote is not None:
        print(f"remote   {now.remote['address']}, ports {now.remote['port']} and {now.remote['control_port']}")
    for process in worker.get("workers", []):
        if not process["pid"]:
            print("worker   not started; the first job starts it")
            continue
        busy = f"jobs {', '.join(process['jobs'])}" if process["jobs"] else "idle"
        loaded = ", ".join(process["models"]) or "no model"
        print(f"worker   process {process['pid']} on {process['device']}, {loaded} in memory, {busy}")
