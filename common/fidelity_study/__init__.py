"""The fidelity study: how close estimators get to the exact hypergradient, on real problems.

``snapshots`` is what an experiment's ``studies.py`` hands over, ``settings`` what is varied;
``measuring`` (with ``metrics`` and ``cost``) measures, ``records`` keeps, ``tables`` and
``report`` show.
"""
