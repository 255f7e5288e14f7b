"""Chapter 1: files of a sleep laboratory → one night, a :class:`Recording`.

In: EDF and other recordings, hypnograms, dictionaries of arrays; or the night that ships with the package.
Out: one channel in microvolts, cut into epochs of 30 s, with the expert's stages and notes.
Open `recording.py` first; `edf.py` opens files, `hypnogram.py` reads stages, `quality.py` checks the signal.
"""
