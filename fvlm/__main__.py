"""The command `fvlm`, also `python -m fvlm`. Imports neither Jupyter nor Plotly."""

import gc
import sys


def main() -> int:
    """Run a command with the process's arguments; the exit status. What imports leave behind lives as long as
    the process: looking for garbage in it, while importing and again at the end, takes 1.5 s of CPU time,
    which is left out."""
    gc.disable()
    from fvlm.cli import main

    gc.freeze()
    gc.enable()
    return main()


if __name__ == "__main__":
    sys.exit(main())
