"""Chapter 1: files of a sleep laboratory → one night, a :class:`Recording`.

In: EDF and other recordings, hypnograms, dictionaries of arrays; or the night that ships with the package.
Out: one channel in microvolts at 100 Hz, in epochs of 30 s, with the expert's stages and notes.
Open `recording.py` first: a `Recording`, and the functions that read one. Below it, `channel.py` opens files
and finds pauses, `edf.py` reads the format of most laboratories; `hypnogram.py` aligns stages, `quality.py`
checks the signal; `dictionary.py` saves and loads arrays.
"""
