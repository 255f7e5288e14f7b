"""Chapter 2: a night → its feature table, one row an epoch.

In: a :class:`Recording`. Out: a DataFrame indexed by (subject, recording, epoch), one column a feature.
Also what features say: which of them separate stages, which say the same, how people differ.
Open `extract.py` first; `catalogue.py` lists every feature, `time_domain.py` and `spectral.py` compute them,
`statistics.py` explores a table.
"""
