"""Chapter 2: a recording → its feature table, one row an epoch.

In: a :class:`Recording`. Out: a DataFrame indexed by (subject, recording, epoch), one column a feature.
Open `extract.py` first. `time_domain.py`, `spectral.py` and `log_power.py` compute the features;
`catalogue.py` describes them, and says which ones a table lacks. `statistics.py` explores a table: which
features separate the stages, which are correlated, how people differ, and where one person lies when
compared with a cohort.
"""
