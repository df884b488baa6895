"""The one-dimensional illustration (section 4.1 of the paper)."""
