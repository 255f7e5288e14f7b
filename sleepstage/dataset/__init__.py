"""Chapter 3: feature tables of many nights → people kept apart → text.

In: nights from the package, Sleep-EDF, a folder of recordings or the contest. Out: one table, splits that do
not leak, and every epoch as a line of digits in windows of text.
Open `table.py` first; `sources.py` and its neighbours fetch nights, `splits.py` keeps people apart,
`digits.py` and `windows.py` make the text that the language model reads.
"""
