from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

import sleepstage as ss
from sleepstage.__main__ import main
from sleepstage.dataset.digits import night_text
from sleepstage.dataset.windows import cut_windows
from sleepstage.files import write_json
from sleepstage.finetuning.callbacks import Clock
from sleepstage.finetuning.checkpoints import _digests, held, newest_complete
from sleepstage.finetuning.settings import CPU, T4
from sleepstage.finetuning.trainer import build_trainer, training_arguments, training_record
from sleepstage.finetuning.training_texts import IGNORED, blurred

DIGITS = (ss.Digit("std_uv"), ss.Digit("mobility"))


@pytest.fixture(scope="module")
def spec():
    return ss.PromptSpec(digits=DIGITS, window=10, look_ahead=2, bidirectional=False)


@pytest.fixture(scope="module")
def config(tiny_base):
    return ss.TrainingConfig(
        base=str(tiny_base), n_steps=6, windows_per_batch=2, batches_per_step=2, warmup_steps=1, lora_rank=4
    )


def test_labels_stand_at_the_colons_of_the_lines_that_answer(table, spec, smollm2_tokenizer):
    texts = ss.training_windows(table, spec, smollm2_tokenizer, n_windows=30)
    lines = night_text(spec.levels(table), "\n").split("\n")
    night = "".join(lines)
    for ids, labels in zip(texts["input_ids"], texts["labels"], strict=True):
        labels = np.array(labels)
        asked = np.flatnonzero(labels != IGNORED)
        assert {smollm2_tokenizer.decode(ids[i]) for i in asked} == {":"}
        text = smollm2_tokenizer.decode(ids[1:]).replace(" ", "")
        first = night.find(text.rstrip("0:")) // 3  # a line is two digits and a colon
        for i in asked:
            epoch = first + (i - 1) // 3 - spec.look_ahead
            assert labels[i] == table["stage"].iloc[epoch]


def test_every_scored_epoch_is_learned_in_a_pass_and_unscored_ones_never(table, spec, smollm2_tokenizer):
    hidden = table.copy()
    hidden.loc[hidden.index[100:200], "stage"] = -1
    n_windows = 3 * int(np.ceil(len(table) / 8))
    texts = ss.training_windows(hidden, spec, smollm2_tokenizer, n_windows)
    counts = np.bincount([stage for row in texts["labels"] for stage in row if stage != IGNORED], minlength=5)
    expected = np.bincount(hidden["stage"][hidden["stage"] >= 0], minlength=5)
    assert np.all(counts >= 2 * expected) and np.all(counts <= 4 * expected)


def test_a_table_without_stages_is_refused(table, spec, smollm2_tokenizer):
    with pytest.raises(ValueError, match="no epoch of the training table is scored"):
        ss.training_windows(table.assign(stage=-1), spec, smollm2_tokenizer, 1)


@pytest.mark.parametrize(("n_epochs", "hinted_share"), [(1, 1.0), (2, 1.0), (30, 0.5)])
def test_nights_shorter_than_the_margins_give_texts(table, smollm2_tokenizer, n_epochs, hinted_share):
    """Neither is a whole night cut off, nor are all of its stages given away as hints."""
    spec = ss.PromptSpec(digits=DIGITS, window=10, examples=3)
    config = ss.TrainingConfig(margin_epochs=480, hinted_share=hinted_share)
    short = table.iloc[200 : 200 + n_epochs]
    texts = ss.training_windows(short, spec, smollm2_tokenizer, 20, config)
    learned = {stage for labels in texts["labels"] for stage in labels if stage != IGNORED}
    assert len(texts) == 20 and learned and learned <= set(short["stage"])


def test_hinted_texts_have_examples_and_ask_nothing_that_they_give(table, smollm2_tokenizer):
    spec = ss.PromptSpec(digits=DIGITS, window=10, examples=3)
    config = ss.TrainingConfig(hinted_share=0.5, windows_per_batch=2, batches_per_step=2)
    texts = ss.training_windows(table, spec, smollm2_tokenizer, 400, config)
    words = ss.label_token_ids(spec.labels, smollm2_tokenizer)
    (colon,) = smollm2_tokenizer(":", add_special_tokens=False).input_ids
    lengths = [len(ids) for ids in texts["input_ids"]]
    assert set(lengths) == {1 + 30, 1 + 9 + 1 + 30}
    assert np.mean(np.array(lengths) > 31) == pytest.approx(0.5, abs=0.2)
    assert all(len(set(lengths[step : step + 4])) == 1 for step in range(0, 400, 4))  # a step is stacked
    inside = 0
    for ids, labels in zip(texts["input_ids"], texts["labels"], strict=True):
        ids, labels = np.array(ids), np.array(labels)
        assert (ids[labels != IGNORED] == colon).all()
        ends = ids[-30:].reshape(10, 3)[:, -1]
        inside += np.isin(ends, words).sum()
        if len(ids) == 31:
            assert not np.isin(ids, words).any()
        else:
            assert (labels[:11] == IGNORED).all()
    assert inside > 0
    bare = ss.training_windows(table, spec, smollm2_tokenizer, 40, replace(config, hinted_share=0.0))
    assert {len(ids) for ids in bare["input_ids"]} == {31}


def test_blur_moves_digits_by_one_level_and_hides_some():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 10, size=(5000, 8)).astype(np.int8)
    seen = blurred(levels, rng, 0.4)
    known, inside = levels > 0, (levels > 1) & (levels < 9)
    assert (seen[~known] == 0).all() and seen.min() == 0 and seen.max() == 9
    assert (seen[known] == 0).mean() == pytest.approx(0.1, abs=0.01)
    moved = np.abs(seen.astype(int) - levels)[inside & (seen > 0)]
    assert set(moved) == {0, 1} and moved.mean() == pytest.approx(0.4 / 0.9, abs=0.01)
    assert blurred(levels, rng, 0.0) is levels


@pytest.mark.parametrize("nf4", [False, True])
def test_trainable_parameters_are_single_precision_lora_only(table, spec, config, tmp_path, nf4):
    trainer = build_trainer(table, spec, replace(config, nf4=nf4), tmp_path)
    trainable = {name: p.dtype for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 7 * 2  # A and B beside seven linear layers in each of two blocks
    assert all("lora_" in name for name in trainable)
    assert set(trainable.values()) == {torch.float32}


def test_loss_is_the_weighted_cross_entropy_over_five_words(table, spec, config, tmp_path, smollm2_tokenizer):
    trainer = build_trainer(table, spec, replace(config, nf4=False), tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)
        everywhere = trainer.model(input_ids=batch["input_ids"]).logits  # all positions, all words
    words = ss.label_token_ids(spec.labels, smollm2_tokenizer)
    proba = everywhere[..., words].double().softmax(-1)
    asked = batch["labels"] != IGNORED
    stage = batch["labels"][asked]
    weights = torch.tensor(config.class_weights, dtype=torch.float64)
    frequency = torch.tensor(np.bincount(table["stage"], minlength=5) / len(table))
    weights /= (weights * frequency).sum()
    by_hand = -(weights[stage] * proba[asked].gather(-1, stage[:, None]).squeeze().log()).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.fixture(scope="module")
def teacher(table):
    proba = np.random.default_rng(3).dirichlet(np.ones(5), len(table)).astype(np.float32)
    answers = pd.DataFrame(proba, index=table.index)

    def read(nights, levels, known):
        return answers.loc[nights.index].to_numpy()

    return SimpleNamespace(answers=answers, run="a teacher that has learned nothing", read=read)


def test_a_teacher_has_its_share_of_the_loss(table, spec, config, tmp_path, teacher, smollm2_tokenizer):
    trainer = build_trainer(table, spec, replace(config, nf4=False), tmp_path, teacher=teacher)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)
        experts = trainer.compute_loss(trainer.model, {k: v for k, v in batch.items() if k != "teacher"})
        everywhere = trainer.model(input_ids=batch["input_ids"]).logits
    words = ss.label_token_ids(spec.labels, smollm2_tokenizer)
    asked = batch["labels"] != IGNORED
    said = everywhere[..., words].double().log_softmax(-1)[asked]
    codes = batch["labels"][asked].numpy()
    rows = [teacher.answers[table["stage"] == code].to_numpy() for code in range(5)]
    soft = batch["teacher"].view(*asked.shape, 5)
    for code, proba in zip(codes, soft[asked].numpy(), strict=True):
        assert np.isclose(rows[code], proba, atol=1e-6).all(axis=1).any()  # an epoch of that stage said so
    taught = -(soft[asked].double() * said).sum(-1).mean()
    by_hand = config.teacher_share * taught + (1 - config.teacher_share) * experts.double()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert (soft[~asked] == 0).all()


@pytest.mark.parametrize(
    ("asked", "width", "rate"), [(None, 64, 1e-3), (None, 3072, 3.6e-4), (2e-5, 64, 2e-5)]
)
def test_learning_rate_is_the_base_models_unless_it_is_given(
    table, spec, config, tmp_path, monkeypatch, asked, width, rate
):
    def wide(*args):
        model = load_base(*args)
        model.config.hidden_size = width
        return model

    load_base = ss.load_base
    monkeypatch.setattr("sleepstage.finetuning.base_model.load_base", wide)
    trainer = build_trainer(table, spec, replace(config, learning_rate=asked), tmp_path)
    assert trainer.args.learning_rate == pytest.approx(rate, rel=0.02)
    assert trainer.config.learning_rate == trainer.args.learning_rate  # and so train.json says it


class Overflow(TrainerCallback):
    """Makes the gradients of one step infinite."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            next(p for p in model.parameters() if p.requires_grad).grad.fill_(torch.inf)


def test_steps_that_the_gradient_scaler_skips_are_counted_through_a_resume(
    table, spec, config, tmp_path, monkeypatch
):
    """A CPU has no scaler unless it is given one; all else is a T4's."""
    create = Trainer.create_accelerator_and_postprocess

    def with_scaler(self):
        create(self)
        self.accelerator.scaler = torch.amp.GradScaler("cpu")

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", with_scaler)
    monkeypatch.setattr("sleepstage.finetuning.trainer.detect", lambda: replace(CPU, optimizer=T4.optimizer))
    kept = replace(config, checkpoint_steps=3)
    trainer = build_trainer(table, spec, kept, tmp_path)
    assert trainer.accelerator.scaler.get_scale() == 2**8
    trainer.add_callback(Overflow(1))
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() == 2**7
    again = build_trainer(table, spec, kept, tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for run in (trainer, again):
        record = training_record(run, table, minutes=1.0)
        assert (record["steps"], record["skipped_steps"]) == (6, 1)


def test_nothing_keeps_a_model_when_its_training_is_over(table, spec, config, tmp_path, monkeypatch):
    """For an optimizer of 8 bits, transformers leaves the embedding in a list of bitsandbytes for ever."""
    monkeypatch.setattr("sleepstage.finetuning.trainer.detect", lambda: replace(CPU, optimizer=T4.optimizer))
    trainer = build_trainer(table, spec, config, tmp_path)
    trainer.create_optimizer()
    embedding = weakref.ref(trainer.model.get_input_embeddings())
    del trainer
    gc.collect()
    assert embedding() is None


def test_accumulation_does_not_change_the_step(table, spec, config, tmp_path):
    """Four windows at once and one by one must give the same first update."""
    weights = []
    for batch, accumulate in ((4, 1), (1, 4)):
        shape = replace(config, nf4=False, n_steps=1, windows_per_batch=batch, batches_per_step=accumulate)
        trainer = build_trainer(table, spec, shape, tmp_path / str(batch))
        grad = _first_gradients(trainer)
        weights.append(grad)
    assert weights[0].norm() > 0
    assert torch.allclose(weights[0], weights[1], rtol=1e-3, atol=1e-6 * weights[0].abs().max())


def _first_gradients(trainer) -> torch.Tensor:
    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            grads = [p.grad.clone().flatten() for p in model.parameters() if p.requires_grad]
            self.gradients = torch.cat(grads)

    keep = Keep()
    trainer.add_callback(keep)
    trainer.args.max_grad_norm = 1e9  # clipping would hide a factor
    trainer.train()
    return keep.gradients


@pytest.fixture(scope="module")
def finetuned(table, spec, config, tmp_path_factory):
    adapter = tmp_path_factory.mktemp("tuned") / "adapter"
    fast_learner = replace(config, n_steps=150, learning_rate=1e-2, windows_per_batch=4, checkpoint_steps=50)
    curve = ss.finetune(table, spec, fast_learner, adapter)
    return adapter, curve


def test_training_learns_what_digits_can_say(finetuned, table):
    adapter, curve = finetuned
    assert list(curve.columns) == ["step", "loss", "learning_rate"]
    assert curve["learning_rate"].iloc[-1] < 0.1 * curve["learning_rate"].max()
    proba = ss.Stager.from_pretrained(adapter).predict_proba(table)
    assert ss.score(table["stage"], proba)["kappa"] > 0.3  # the epochs it was trained on


def test_adapter_folder_holds_what_the_contract_says(finetuned, spec):
    adapter, _ = finetuned
    files = {file.name for file in adapter.iterdir()}
    assert files == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "prompt.json",
        "prior.json",
        "train.json",
    }
    assert ss.PromptSpec.load(adapter / "prompt.json") == spec
    card = json.loads((adapter / "train.json").read_text())
    assert card["subjects"] == [0] and card["n_epochs"] == 841 and card["steps"] == 150
    assert card["stage_counts"] == {"W": 188, "N1": 58, "N2": 250, "N3": 220, "REM": 125}
    assert not list(adapter.parent.glob("*checkpoints"))


def test_training_goes_on_from_an_adapter_and_remembers_its_people(finetuned, table, spec, config, tmp_path):
    adapter, _ = finetuned
    other = table.rename({0: 7}, level="subject")
    going_on = replace(config, start_from=str(adapter), n_steps=2, learning_rate=1e-9)  # lost in rounding
    ss.finetune(other, spec, going_on, tmp_path / "more")
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "more")
    )
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=0, rtol=0)
    assert json.loads((tmp_path / "more" / "train.json").read_text())["subjects"] == [0, 7]


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def steady(config):
    return replace(config, checkpoint_steps=2, nf4=False)


@pytest.fixture(scope="module")
def straight(table, spec, steady, tmp_path_factory):
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("straight") / "adapter"
    return folder, ss.finetune(table, spec, steady, folder)


@pytest.fixture
def interrupted(table, spec, steady, tmp_path):
    """The checkpoints of steps 2 and 4 of a run that ended in step 5."""
    trainer = build_trainer(table, spec, steady, tmp_path / "adapter-checkpoints")
    trainer.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return tmp_path / "adapter-checkpoints"


def cut_off(checkpoint):
    (checkpoint / "complete.json").unlink()


def damage(checkpoint):
    optimizer = checkpoint / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])


@pytest.mark.parametrize("accident", [None, cut_off, damage])
def test_interrupted_training_ends_where_it_would_have(
    accident, table, spec, steady, straight, interrupted, caplog
):
    """From the newest checkpoint, or from the one before it if that was cut off or damaged."""
    assert not interrupted.with_name("adapter").exists()
    if accident:
        accident(interrupted / "checkpoint-4")
    resumed = ss.finetune(table, spec, steady, interrupted.with_name("adapter"), resume=True)
    assert ("checkpoint-4" in caplog.text and "passed over" in caplog.text) == bool(accident)
    pd.testing.assert_frame_equal(resumed, straight[1])
    one, two = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (straight[0], interrupted.with_name("adapter"))
    )
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=0, rtol=0)


def test_a_copy_elsewhere_is_enough_to_go_on(table, spec, steady, straight, tmp_path):
    """The machine vanishes with its disk; the Drive has the newest two checkpoints."""
    drive, lost = tmp_path / "drive", tmp_path / "lost" / "adapter"
    trainer = build_trainer(table, spec, steady, lost.with_name("adapter-checkpoints"), copy_to=drive)
    trainer.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    [copies] = drive.iterdir()
    (copies / "checkpoint-6.partial999999999").mkdir()  # a copy that was cut off
    others = {"checkpoint-4 (1)", "checkpoint-best", "checkpoint-4.zip", "thesis.txt"}  # a Drive's copy (1)
    for name in others:
        (copies / name).mkdir()
    resumed = ss.finetune(table, spec, steady, tmp_path / "new" / "adapter", resume=True, copy_to=drive)
    pd.testing.assert_frame_equal(resumed, straight[1])
    assert {path.name for path in copies.iterdir()} == {"checkpoint-4", "checkpoint-6"} | others


def test_runs_with_one_drive_keep_their_copies_apart(table, spec, steady, interrupted, tmp_path, caplog):
    """The second run's are fewer and lower; and it says why it begins anew."""
    drive = tmp_path / "drive"
    ss.finetune(table, spec, steady, tmp_path / "one", copy_to=drive)
    [first] = drive.iterdir()
    before = {path: path.read_bytes() for path in first.rglob("*.*")}
    other = replace(steady, n_steps=2, learning_rate=1e-4)
    ss.finetune(table, spec, other, tmp_path / "two", copy_to=drive, resume=True)
    assert "begins anew" in caplog.text and "learning_rate" in caplog.text
    [second] = {*drive.iterdir()} - {first}
    assert [path.name for path in second.iterdir()] == ["checkpoint-2"]
    assert {path: path.read_bytes() for path in first.rglob("*.*")} == before


def test_a_drive_that_vanishes_is_a_warning(table, spec, steady, straight, tmp_path, caplog):
    class Vanish(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                shutil.rmtree(tmp_path / "drive")

    work = tmp_path / "adapter-checkpoints"
    trainer = build_trainer(table, spec, steady, work, copy_to=tmp_path / "drive")
    trainer.add_callback(Vanish())
    trainer.train()
    assert "checkpoint-4 was not copied" in caplog.text and "is gone" in caplog.text
    assert trainer.state.global_step == 6 and not (tmp_path / "drive").exists()
    assert (work / "checkpoint-6" / "complete.json").is_file()


@pytest.mark.parametrize("inside", ["adapter", "adapter/copies", "adapter-checkpoints", "base"])
def test_copies_into_another_folder_of_the_training_are_refused(
    inside, table, spec, config, tmp_path, never_trains
):
    config = replace(config, base=str(tmp_path / "base"))
    with pytest.raises(ValueError, match="name another folder for copies"):
        ss.finetune(table, spec, config, tmp_path / "adapter", copy_to=tmp_path / inside)


def test_two_trainings_on_one_folder_are_refused(table, spec, config, tmp_path, never_trains, monkeypatch):
    lock = tmp_path / "adapter-checkpoints.lock"
    with held(tmp_path / "adapter-checkpoints"):
        with pytest.raises(
            ValueError, match=rf"process {os.getpid()} on .* trains into .*adapter-checkpoints"
        ):
            ss.finetune(table, spec, config, tmp_path / "adapter")
        holder = json.loads(lock.read_text())
    assert not lock.exists()
    for wrong in ({"began": 1.0}, {"process": 2**22 + 1}, {"process": "x"}, {"process": -1}):  # it was killed
        lock.write_text(json.dumps(holder | wrong))
        with held(tmp_path / "adapter-checkpoints"):
            assert json.loads(lock.read_text()) == holder
    with held(tmp_path / "adapter-checkpoints"), monkeypatch.context() as clock:  # it is set back an hour
        really_booted, really_began = psutil.boot_time, psutil.Process.create_time
        clock.setattr(psutil, "boot_time", lambda: really_booted() - 3600)
        clock.setattr(psutil.Process, "create_time", lambda process: really_began(process) - 3600)
        with pytest.raises(ValueError, match="trains into"):
            ss.finetune(table, spec, config, tmp_path / "adapter")
    lock.write_text(json.dumps(holder | {"computer": "another"}))
    with pytest.raises(ValueError, match=r"on another trains into .*delete .*lock"):
        ss.finetune(table, spec, config, tmp_path / "adapter")


def test_a_damaged_file_in_a_folder_of_a_checkpoint_is_found(tmp_path):
    checkpoint, run = tmp_path / "checkpoint-2", {"settings": {"seed": 0}}
    shard = checkpoint / "optimizer_0" / "a.distcp"
    shard.parent.mkdir(parents=True)
    shard.write_text("whole")
    write_json(checkpoint / "complete.json", {"run": run, "files": _digests(checkpoint)})
    assert newest_complete(tmp_path, None, run) == checkpoint
    shard.write_text("wh")
    assert newest_complete(tmp_path, None, run) is None


@pytest.mark.parametrize("marker", ["[]", "{}", '{"files": null}', '{"run": 5, "files": {}}', "{"])
def test_a_marker_that_says_nothing_is_passed_over(
    marker, table, spec, steady, straight, interrupted, caplog
):
    (interrupted / "checkpoint-4" / "complete.json").write_text(marker)
    (interrupted / "checkpoint-9").touch()  # no folder
    resumed = ss.finetune(table, spec, steady, interrupted.with_name("adapter"), resume=True)
    assert "checkpoint-4" in caplog.text and "passed over" in caplog.text
    pd.testing.assert_frame_equal(resumed, straight[1])


def test_the_newest_checkpoints_are_kept_though_the_clock_was_set_back(table, spec, steady, tmp_path):
    class SetClockBack(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            folder = tmp_path / f"checkpoint-{state.global_step}"
            os.utime(folder, times=(2_000_000_000 - state.global_step,) * 2)

    trainer = build_trainer(table, spec, steady, tmp_path)
    trainer.add_callback(SetClockBack())
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}


@pytest.fixture
def never_trains(monkeypatch):
    monkeypatch.setattr(
        "sleepstage.finetuning.trainer.build_trainer", lambda *_, **__: pytest.fail("it began to train")
    )


def test_training_over_a_users_folder_is_refused_before_it_begins(table, tmp_path, capsys, never_trains):
    thesis = tmp_path / "home" / "thesis.docx"
    thesis.parent.mkdir()
    thesis.write_text("four years")
    cohort = ss.save_table(table, tmp_path / "cohort.npz")
    assert main(["train", "--table", str(cohort), "--adapter", str(thesis.parent)]) == 2
    said = capsys.readouterr().err
    assert "thesis.docx" in said and "Nothing was deleted" in said and "does not exist yet" in said
    assert thesis.read_text() == "four years"


def test_training_over_what_it_needs_is_refused(finetuned, table, spec, config, never_trains):
    adapter, _ = finetuned
    with pytest.raises(ValueError, match="still needed"):
        ss.finetune(table, spec, replace(config, start_from=str(adapter)), adapter)
    with pytest.raises(ValueError, match="still needed"):
        ss.finetune(table, spec, config, config.base)


@pytest.mark.parametrize("foreign", ["notes.txt", "checkpoint-2/notes.txt", "checkpoint-2/weights/best.pt"])
def test_checkpoints_beside_a_users_file_are_not_deleted(foreign, table, spec, steady, interrupted):
    file = interrupted / foreign
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(ValueError, match=f"holds '{foreign}'"):
        ss.finetune(table, spec, steady, interrupted.with_name("adapter"))
    assert file.read_text() == "mine" and (interrupted / "checkpoint-4" / "optimizer.pt").is_file()
    ss.finetune(table, spec, steady, interrupted.with_name("adapter"), resume=True)
    assert [path.relative_to(interrupted).as_posix() for path in interrupted.rglob("*.*")] == [foreign]


def test_another_tools_checkpoints_are_not_deleted(table, spec, config, tmp_path, never_trains):
    weights = tmp_path / "adapter-checkpoints" / "checkpoint-500" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(ValueError, match="sleepstage wrote"):
        ss.finetune(table, spec, config, tmp_path / "adapter")
    assert weights.is_file()


def test_an_interrupted_runs_checkpoints_give_way_to_a_new_run(table, spec, steady, interrupted):
    ss.finetune(table, spec, replace(steady, n_steps=1), interrupted.with_name("adapter"))
    assert not interrupted.exists()


def test_a_loss_that_is_not_finite_stops_the_training(table, spec, steady, tmp_path):
    absurd = replace(steady, learning_rate=1e30, warmup_steps=3, checkpoint_steps=1)
    with pytest.raises(ValueError, match=r"step 2: the loss is nan, at a learning rate of \d.\de\+29.*third"):
        ss.finetune(table, spec, absurd, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    saved = load_file(tmp_path / "adapter-checkpoints" / "checkpoint-1" / "adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in saved.values())


def test_an_absurd_last_step_is_not_written(table, spec, steady, tmp_path):
    """Its loss was that of the weights before it."""
    with pytest.raises(ValueError, match="nothing was written"):
        ss.finetune(table, spec, replace(steady, learning_rate=1e30, n_steps=1), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_checkpoint_of_nan_is_not_written(table, spec, steady, tmp_path):
    class Spoil(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            next(p for p in model.parameters() if p.requires_grad).data[0] = torch.nan

    trainer = build_trainer(table, spec, replace(steady, checkpoint_steps=1), tmp_path)
    trainer.add_callback(Spoil())
    with pytest.raises(ValueError, match="lora_.* nothing was written"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(table, spec, steady, straight, tmp_path):
    """A limit on the size of files stands for the disk: what torch meets is the same failing write."""
    adapter = tmp_path / "adapter"
    trainer = build_trainer(table, spec, steady, tmp_path / "adapter-checkpoints")
    trainer.add_callback(FillDisk(after=2))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # or the limit would kill the process
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            OSError, match="step 4: could not write a checkpoint .* free some space, then resume"
        ):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    resumed = ss.finetune(table, spec, steady, adapter, resume=True)
    pd.testing.assert_frame_equal(resumed, straight[1])


class FillDisk(TrainerCallback):
    def __init__(self, after: int):
        self.after = after

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))


def test_a_checkpoint_of_another_run_is_refused_and_kept(table, spec, steady, interrupted):
    adapter = interrupted.with_name("adapter")
    other = replace(steady, learning_rate=0.5, max_minutes=7)
    with pytest.raises(
        ValueError, match=r"another run: settings.learning_rate \(0.001 then, 0.5 now\)\. Resume"
    ):
        ss.finetune(table, spec, other, adapter, resume=True)
    with pytest.raises(ValueError, match=r"another run: data .*, prompt.window \(10 then, 12 now\)\. Resume"):
        ss.finetune(table[:-1], replace(spec, window=12), steady, adapter, resume=True)
    assert {path.name for path in interrupted.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}


def test_curve_grows_in_one_place_of_a_notebook(table, spec, config, tmp_path, monkeypatch):
    class Place:
        drawn = []

        def update(self, figure):
            self.drawn.append(figure.axes[0].lines[0].get_xdata().tolist())

    def display(figure, display_id):
        assert display_id
        place = Place()
        place.update(figure)
        return place

    monkeypatch.setattr("sleepstage.plots.widgets.display", display)
    monkeypatch.setattr("sleepstage.finetuning.callbacks.Watch.SECONDS", 0.0)
    ss.finetune(table, spec, replace(config, n_steps=3), tmp_path / "adapter", watch=ss.LiveCurve())
    assert Place.drawn == [[1], [1, 2], [1, 2, 3], [1, 2, 3], [1, 2, 3]]  # trl logs once more at the end
    assert not plt.get_fignums()  # or the notebook would show the last one twice


def test_curve_has_points_although_the_clock_ends_a_training_early(config, tmp_path):
    long = replace(config, n_steps=2000)  # of which a slow machine takes a hundred
    assert training_arguments(long, tmp_path).logging_steps <= 5


def test_clock_stops_training_in_time_and_the_last_step_is_in_the_curve(table, spec, config, tmp_path):
    hurried = replace(config, n_steps=500, max_minutes=1e-6)  # over before the first regular log
    curve = ss.finetune(table, spec, hurried, tmp_path / "adapter")
    assert curve["step"].tolist() == [1]
    assert Clock(None).share == 0


def test_other_number_of_class_weights_is_refused(table, spec, config, tmp_path):
    with pytest.raises(ValueError, match="got 2 class weights"):
        build_trainer(table, spec, replace(config, class_weights=(1.0, 2.0)), tmp_path)


def test_windows_are_never_truncated(table, smollm2_tokenizer, config, tmp_path):
    """trl's default of 1,024 tokens would lose answers without a word."""
    long = ss.PromptSpec(digits=DIGITS * 10, window=60, look_ahead=2)
    trainer = build_trainer(table, long, replace(config, nf4=False), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == (2, 1 + 60 * 21)
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [58, 58]
    windows = cut_windows(long.levels(table), long, smollm2_tokenizer, np.array([0]))
    assert windows.input_ids.shape == (1, 1 + 60 * 21)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_twice_the_batches(table, tiny_base, tmp_path):
    """The same four windows a step, shared out by torchrun, give the same adapter."""
    nights = [table, table.rename({0: 1}, level="subject")]
    cohort = ss.save_table(pd.concat(nights), tmp_path / "cohort.npz")
    arguments = ["train", "--table", str(cohort), "--base", str(tiny_base), "--float32", "--steps", "6"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main([*arguments, "--adapter", str(alone)]) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sleepstage"]
    command = [sys.executable, "-m", *launcher, *arguments, "--adapter", str(together)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr[-3000:]  # at its end stands which process failed, and how
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (alone, together))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-4, rtol=1e-3)
    assert json.loads((together / "train.json").read_text())["steps"] == 6
