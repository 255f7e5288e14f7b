"""Pictures and widgets: whatever a step returns → matplotlib Axes, or something to click on in a notebook.

In: a recording, a table, a hypnodensity or a training curve. Out: Axes (neither shown nor saved) or widgets.
Open `hypnogram.py` first; `features.py`, `epoch.py` and `results.py` draw the rest, `widgets.py` moves them.
"""
