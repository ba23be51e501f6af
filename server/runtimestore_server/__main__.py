"""The command `runtimestore`, and `python -m runtimestore_server`."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command line; says what to install where only the thin client is."""
    _open_standard_files()
    gc.disable()  # nothing of what is loaded is garbage; once a command is loaded it is looked for some again
    # gRPC's own lines name source files of its C core; what they tell, our sentences tell. Read when gRPC is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from runtimestore_server.cli import run

        return run(sys.argv[1:])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("runtimestore"):
            raise
        sys.stderr.write(
            f"runtimestore: this command needs the package {error.name}, which the thin client does not bring: "
            "pip install 'runtimestore[server]'\n"
        )
        return 1
    except KeyboardInterrupt:  # while the modules are loaded
        return 130
    finally:
        # The interpreter would look for garbage in all that was loaded, to free what goes with the process anyway: a
        # quarter of the CPU of a short command.
        gc.freeze()


def _open_standard_files() -> None:
    """Open what the shell closed of standard input, output and error, as /dev/null.

    Else the next file that is opened has the number of one of them, and it may be the store: whatever a library writes
    to standard error would be written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free, which is this one
        # Standard output stays none: a command whose report nobody will ever see says so.
        if name != "stdout" and getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  (for as long as we live)


if __name__ == "__main__":
    sys.exit(main())
