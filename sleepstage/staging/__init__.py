"""Chapter 5a: an adapter and a feature table → probabilities of the five stages for every epoch.

In: a feature table, and an adapter (one ships with the package). Out: the hypnodensity, a DataFrame of shape
(n_epochs, 5).
Open `stager.py` first.
"""
