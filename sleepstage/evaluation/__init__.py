"""Chapter 5b: a hypnodensity and the expert's stages → figures.

In: probabilities and the expert's stages of the same epochs. Out: kappa, F1, log-loss and calibration, with
intervals over people, beside baselines that learned from the same people.
Open `metrics.py` first: scores of one model. `baselines.py` has majority and trees, `cohort.py` scores models
on many people: pooled, for each person and night, and one model against another.
"""
