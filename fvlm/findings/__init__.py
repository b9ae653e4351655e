"""What the committed results show, in words: `fvlm findings` writes outputs/FINDINGS.md and the README's
answer from them, and nothing in either is typed by hand, so a test can compare both with the results.

`page.py` puts them together · `sections.py` what was found · `prediction.py` what the largest size was
expected to show · `nanosmol.py` nanoSmol's conclusions · `words.py` numbers in words · `sources.py` what is
read."""
