"""Pictures and widgets: whatever a step returns → matplotlib Axes, or something to click on in a notebook.

In: a recording, a table, a hypnodensity or a training curve. Out: Axes (neither shown nor saved) or widgets.
Open `hypnogram.py` first: a night against time, also as hypnodensity and spectrogram. `epoch.py` draws one
epoch: trace, spectrum, digits in colour, and the still pictures that `widgets.py` moves. `features.py` draws
the columns of a table, `results.py` training curve and confusion matrix; `style.py` is their common look.
"""
