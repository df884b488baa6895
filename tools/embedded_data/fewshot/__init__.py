"""The five small domains of the few-shot experiment, from pinned packages."""
