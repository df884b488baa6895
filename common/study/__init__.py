"""The cost study: time and memory of every estimator on whatever problem it is handed.

``case`` is what an experiment hands over, ``estimators`` the table of methods; ``plan``,
``worker`` and ``measuring`` measure, ``records`` keeps, ``tables``, ``figures`` and ``report``
show.
"""
