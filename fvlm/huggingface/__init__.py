"""What transformers knows of a saved model: its configuration and its processor.

Each may be imported while transformers is still importing itself, so nothing is imported here."""
