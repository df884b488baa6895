"""The cost study: time and memory of every estimator on whatever problem it is handed.

``case`` is what an experiment's ``studies.py`` hands over; ``records`` says which rows there are
and keeps what was measured of them; ``measuring`` takes or counts their costs; ``report`` (tables)
and ``figures`` show.
"""
