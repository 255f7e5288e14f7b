"""The course: a demo of the whole way, exercises that check themselves, and what is special about Colab.

In: a student's answers. Out: verdicts in words; results of the demo in a folder.
Open `demo.py` first; `workshop.py` checks exercises. `colab.py` serves the first cell of the notebooks: does
the session need a restart, and in which folder (on Google Drive, perhaps) do the notebooks keep their data?
"""
