"""The embedded corpus: synthetic mentions set into real text, for runs without any download.

``material`` holds what was taken from packages, unchanged in substance (by
``tools.embedded_data.metaxl.build``); ``written`` holds the lists written for this project;
``generator.py`` makes sentences of both.
"""

from metaxl.embedded.generator import LANGUAGES, SIZES, TYPES, generate, load_embedded, unlabelled

__all__ = ["LANGUAGES", "SIZES", "TYPES", "generate", "load_embedded", "unlabelled"]
