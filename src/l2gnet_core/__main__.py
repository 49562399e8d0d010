"""The entry point of `l2gnet`, which is also `python -m l2gnet_core`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. Its import takes a part of a second, and Ctrl-C ends that, too, with one
    line."""
    try:
        from l2gnet_core.cli import main as run

        run()
    except KeyboardInterrupt:
        print("l2gnet: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
