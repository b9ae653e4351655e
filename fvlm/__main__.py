"""`python -m fvlm`: see `--help`. Imports neither Jupyter nor Plotly."""

import sys

from fvlm.cli import main

sys.exit(main())
