"""What the committed results show, in words: `fvlm findings` writes outputs/FINDINGS.md and the README's
answer, table and tree. Nothing in them is typed by hand, so a test can compare them with results and files.

`page.py` puts them together · `sections.py` what was found · `captions.py`, `questions.py`, `mixes.py` a study
each · `detail.py` the study of captions by what is in a clip · `answer.py` the README's answer · `tree.py` its
tree · `figures.py` its pictures · `prediction.py` what sizes were expected to show · `withdrawn.py`
what is no longer said · `nanosmol.py` nanoSmol's conclusions · `words.py` numbers in words · `sources.py` what
is read."""
