"""The command ``hasql``."""

import sys

__all__ = ("main",)

_INTERRUPTED = 130
"""The exit code that a shell reports for a program ended by Ctrl-C."""


def main() -> None:
    """Run the command line; the console script `hasql`."""
    try:
        # Imported here, so that this function can report a missing library.
        from hasql.cli.app import app
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or str(error)
        if missing.startswith("hasql"):
            raise
        sys.exit(f"The command hasql needs {missing}: pip install 'hasql[cli]'")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    try:
        app(prog_name="hasql")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
