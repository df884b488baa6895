"""The cost study: time and memory of every estimator on whatever problem it is handed.

``case`` is what an experiment's ``cost.py`` hands over, ``methods`` the settings at which the
estimators are measured; ``measuring`` takes times and bytes of one, ``running`` those of a case in
a process of its own; ``records`` keeps, ``tables``, ``figures`` and ``report`` show.
"""
