"""Chapter 3: feature tables of many nights → people kept apart → text.

In: nights from the package, Sleep-EDF, a folder of recordings or the contest, a file for each source.
Out: one table, splits that do not leak, and windows of text in which every epoch is a line of digits.
Open `table.py` first: nights collected in a table, and kept. `splits.py` keeps people apart and cuts
nights anew at random ("recut"). `digits.py` turns an epoch into digits or words, and `windows.py` turns a
night into tokens of the language model: of the digits, and of the label words that it answers with.
"""
