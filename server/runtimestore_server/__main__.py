"""The command `runtimestore`, and `python -m runtimestore_server`."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; says what to install where only the thin client is."""
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


if __name__ == "__main__":
    sys.exit(main())
