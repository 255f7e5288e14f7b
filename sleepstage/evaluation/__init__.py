"""Chapter 5b: a hypnodensity and the expert's stages → figures.

In: probabilities and the expert's stages of the same epochs. Out: kappa, F1, log-loss and calibration, with
intervals over people, beside baselines that learned from the same people.
Open `metrics.py` first: scores of one model. `baselines.py` has majority and trees, `cohort.py` figures over
many people, `readers.py` puts models side by side. `conditions.py` changes nights, and `hints.py` simulates a
scorer who stages a few epochs.
"""
