"""The fidelity study: how close estimators get to the exact hypergradient, on real problems.

``snapshots`` is what an experiment's ``studies.py`` hands over; ``measuring`` (with ``metrics``)
says what is varied and measures it; ``records`` keeps, ``report`` shows.
"""
