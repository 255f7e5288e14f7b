"""The course: a demo of the whole way, exercises that check themselves, and what is special about Colab.

In: a student's answers. Out: verdicts in words; results of the demo in a folder.
Open `demo.py` first; `workshop.py` checks exercises. `colab.py` is for the first cell of the notebooks: it
says whether the session needs a restart, and in which folder the notebooks keep their data.
"""
