"""Chapter 4: text and stages → an adapter for a language model (QLoRA).

In: a feature table with stages, a prompt and settings. Out: an adapter folder.
Open `trainer.py` first: loss, trainer and `finetune` in one sitting. `base_model.py` fetches and loads the
language model, `training_texts.py` cuts labelled windows, `settings.py` has every number with its reason and
what the machine can do, `memory_plan.py` what a training will need; `adapter.py` loads, merges and pushes.
"""
