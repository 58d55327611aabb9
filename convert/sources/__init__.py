"""One module per layout weights come in."""
