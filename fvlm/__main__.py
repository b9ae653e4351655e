"""`python -m fvlm`, the same as `fvlm`. Imports neither Jupyter nor Plotly."""

import sys

from fvlm.cli import main

sys.exit(main())
