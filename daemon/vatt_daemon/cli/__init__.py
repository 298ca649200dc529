"""The `vatt` command. Each group is imported only when it is used, so that `vatt --help` and errors come at once."""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. Whatever goes wrong is one plain sentence on standard error and an exit code.

    VATT_DEBUG=1 shows the traceback as well.
    """
    try:
        from vatt_daemon.cli.app import application
    except ModuleNotFoundError as error:
        # The distribution without extras is the thin client, and brings this command along all the same.
        print(f"The 'vatt' command needs {error.name}: install VATT with its daemon, 'vatt[daemon]'.", file=sys.stderr)
        sys.exit(1)

    sys.exit(_guarded(application, sys.argv[1:] if arguments is None else arguments))


def _guarded(application: object, arguments: list[str]) -> int:
    try:
        result = application(args=arguments, prog_name="vatt", standalone_mode=False)  # type: ignore[operator]
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`vatt … | head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if os.environ.get("VATT_DEBUG"):
            import traceback

            traceback.print_exc()
        return report(error)


def report(error: Exception) -> int:
    """Print an error as one plain sentence; returns the exit code."""
    if type(error).__name__ == "Abort":
        print("Interrupted.", file=sys.stderr)
        return 130
    code = int(getattr(error, "exit_code", 1))
    if hasattr(error, "format_message"):  # a wrong use of the command line, found by typer
        message = error.format_message()
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return code
        if context is not None:
            message = f"{message.rstrip('.')}. See '{context.command_path} --help'."
    elif hasattr(error, "message") and hasattr(error, "code"):
        message = error.message
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        message = (
            f"{error.strerror or error}{where}. Check that it is there, may be used by you and has room, and try again."
        )
    else:
        message = (
            f"This is a fault of the program ({type(error).__name__}: {error}). "
            "Set VATT_DEBUG=1 to see where, and please report it."
        )
    print(" ".join(message.split()), file=sys.stderr)
    return code or 1
