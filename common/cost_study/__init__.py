"""The cost study: time and memory of every estimator on whatever problem it is handed.

``case`` is what an experiment's ``studies.py`` hands over, ``rows`` what is measured of it,
``released`` the authors' own steps; ``measuring`` takes or counts the cost of one row, ``running``
those of a case in a process of its own; ``records`` keeps, ``tables``, ``figures`` and ``report``
show.
"""
