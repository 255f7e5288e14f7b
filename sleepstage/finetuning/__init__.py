"""Chapter 4: text and stages → an adapter for a language model (QLoRA).

In: a feature table with stages, a prompt and settings. Out: an adapter folder that can be loaded, merged and
pushed to a hub.
Open `trainer.py` first: loss, trainer and `finetune` in one sitting; `settings.py` has every number with its
reason, `memory_plan.py` says what a machine needs, `adapter.py` reads and writes adapters.
"""
