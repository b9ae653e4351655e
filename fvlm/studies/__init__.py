"""Many runs: `grid.py` which and how far · `executors.py` where they run · `progress.py` the live table ·
`page.py` their page · `tune.py` learning rates · `question.py` the question experiment."""
