"""What transformers knows of a saved model: its configuration (`configuration.py`) and its processor
(`processor.py`). Each is imported while transformers is still importing itself, so nothing is imported here."""
