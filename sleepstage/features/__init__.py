"""Chapter 2: a recording → its feature table, one row an epoch.

In: a :class:`Recording`. Out: a DataFrame indexed by (subject, recording, epoch), one column a feature.
Open `extract.py` first. `time_domain.py` and `spectral.py` compute the features. `catalogue.tsv` describes
them, one row a feature; `catalogue.py` holds their bands and ratios. `statistics.py` shows which features
separate the stages, which are correlated with each other, and how people differ.
"""
