"""The contest data: fetched from a local server, unpacked safely, and read as what they are."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from scipy import signal

import sleepstage as ss
from sleepstage.dataset import contest
from sleepstage.dataset.table import consecutive_runs

KINDS = {"nan": np.full((51, 59), np.nan), "zero": np.zeros((51, 59))}


def spectrogram(eeg_uv):
    """As the contest's files: 51 × 59, V²/Hz."""
    return signal.spectrogram(1e-6 * eeg_uv, 100, nperseg=100, noverlap=50)[2]


@pytest.fixture(scope="module")
def folder(night, tmp_path_factory):
    """The shipped night as a contest folder, every seventh epoch missing, its first half another person's."""
    root = tmp_path_factory.mktemp("contest") / contest.CONTEST_FOLDER
    for epoch, (eeg_uv, stage) in enumerate(zip(night.eeg_uv, night.stages, strict=True)):
        if epoch % 7:
            (root / str(stage)).mkdir(parents=True, exist_ok=True)
            np.save(root / str(stage) / f"{1 + epoch // 420:02}-{epoch % 420}.npy", spectrogram(eeg_uv))
    return root


@pytest.fixture(scope="module")
def read(folder):
    return contest.read_contest(folder)


def test_powers_of_a_spectrogram_agree_with_those_of_the_signal(read, table):
    epoch = read.index.get_level_values("epoch") + 420 * (read.index.get_level_values("subject") == "02")
    of_the_signal = table.iloc[epoch]
    assert (read["stage"].to_numpy() == of_the_signal["stage"].to_numpy()).all()
    for band in ("delta", "beta"):
        name = f"{band}_power_uv2"
        ratio = read[name].to_numpy() / of_the_signal[name].to_numpy()
        assert np.median(ratio) == pytest.approx(1, abs=0.1)
        assert np.corrcoef(np.log(read[name]), np.log(of_the_signal[name]))[0, 1] > 0.98


def test_nothing_of_the_time_domain_is_claimed_and_the_reason_is_given(read):
    missing = ss.missing_features(read)
    assert {"std_uv", "kurtosis", "mobility", "wavelet_entropy", "rfft_delta_uv2"} <= set(missing.index)
    assert not set(missing.index) & set(read.columns)
    assert missing["std_uv"] == "needs the signal's samples"
    assert set(ss.describe_features(ss.feature_columns(read))["family"]) == {"spectral"}


def test_every_column_can_be_described_and_put_in_words(read):
    names = ss.feature_columns(read)
    about = ss.describe_features(names)
    assert about.index.tolist() == names and (about != "").all(axis=None)
    assert about.loc["alpha_power_change", ["family", "unit"]].tolist() == ["spectral", "1"]
    facts = ss.epoch_in_words(read.iloc[0], names).split("\n")[1:-1]
    assert len(facts) == len(names)
    change = facts[names.index("sigma_power_change")]
    assert change.startswith("change of sigma power within the epoch")
    assert change.endswith(f": {read['sigma_power_change'].iloc[0]:.3g}")


def test_a_change_of_power_within_the_epoch_is_measured(tmp_path):
    steady = np.full((51, 60), 1e-12)
    doubled = steady.copy()
    doubled[9:12, ::2] *= 2  # the lines at 9 to 11 Hz, of the alpha band's 8 to 12
    (tmp_path / "0").mkdir()
    np.save(tmp_path / "0" / "a-1.npy", steady)
    np.save(tmp_path / "0" / "a-2.npy", doubled)
    read = contest.read_contest(tmp_path).filter(like="_power_change")
    expected = pd.DataFrame(0.0, index=read.index, columns=read.columns)
    expected.iloc[1, read.columns.get_loc("alpha_power_change")] = np.log(8 / 5) / 2
    np.testing.assert_allclose(read, expected, atol=1e-9)


def test_what_is_missing_is_said_while_reading(tmp_path, night, caplog):
    (tmp_path / "0").mkdir()
    np.save(tmp_path / "0" / "a-1.npy", spectrogram(night.eeg_uv[0]))
    contest.read_contest(tmp_path)
    assert "not available from these files: mean_uv, std_uv" in caplog.text
    assert "needs the signal's samples" in caplog.text and "has lost the phase" in caplog.text


@pytest.mark.parametrize(
    ("factor", "unit"), [(1e12, "as if they were volts"), (1e-12, "volts were stored as")]
)
def test_spectrograms_in_another_unit_are_refused(factor, unit, tmp_path, night):
    (tmp_path / "0").mkdir()
    np.save(tmp_path / "0" / "a-1.npy", factor * spectrogram(night.eeg_uv[0]))
    with pytest.raises(ValueError, match=f"peak-to-peak amplitude of .*{unit}"):
        contest.read_contest(tmp_path)


@pytest.mark.parametrize("n_columns", [59, 60])
def test_both_widths_that_are_told_of_are_read(n_columns, tmp_path, night):
    (tmp_path / "0").mkdir()
    array = np.resize(spectrogram(night.eeg_uv[0]).T, (n_columns, 51)).T
    np.save(tmp_path / "0" / "a-1.npy", array)
    assert contest.read_contest(tmp_path)["quality"].tolist() == ["ok"]


def test_gaps_in_the_numbers_are_gaps_and_people_are_split(read):
    assert max(run.stop - run.start for run in consecutive_runs(read)) == 6
    split = ss.split_subjects(read, test_fraction=0.5)
    assert split.groupby(level="subject").nunique().eq(1).all()


def test_a_prompt_is_made_from_what_the_table_has(read):
    spec = ss.PromptSpec.fit(read, ss.default_digits(read))
    levels = spec.levels(read)
    assert levels.shape == (len(read), 12) and (levels > 0).all()


def test_from_the_folder_to_scores_as_notebooks_3_to_5_do(folder, tiny_base, smollm2_tokenizer, tmp_path):
    """From nothing but the files: table, split by person, prompt, training, staging, scores."""
    ss.save_table(ss.read_contest(folder), tmp_path / "features.npz")
    table = ss.load_table(tmp_path / "features.npz")
    split = ss.split_subjects(table, test_fraction=0.5)
    train, test = table[split == "train"], table[split == "test"]
    ss.check_no_leakage(train.index.unique("subject"), test.index.unique("subject"))
    spec = ss.PromptSpec.fit(train, ss.default_digits(train))
    assert set(digit.column for digit in spec.digits) <= set(ss.feature_columns(table))

    texts = ss.training_windows(train, spec, smollm2_tokenizer, n_windows=80)
    lines = pd.Series(ss.night_text(spec.levels(train), "\n").split("\n"), index=train.index)
    subject, epoch = (train.index.get_level_values(name) for name in ("subject", "epoch"))
    runs = lines.groupby([subject, epoch // 7]).agg("".join).tolist()  # every seventh epoch is missing
    unknown = ss.night_text(np.zeros((1, len(spec.digits)), dtype=int))
    for ids in texts["input_ids"]:
        text = smollm2_tokenizer.decode(ids[1:]).replace(" ", "")
        while text.endswith(unknown):
            text = text.removesuffix(unknown)
        assert any(text in run for run in runs)

    config = ss.TrainingConfig(base=str(tiny_base), nf4=False, n_steps=3, warmup_steps=1, lora_rank=2)
    ss.finetune(train, spec, config, tmp_path / "adapter")
    stager = ss.Stager.from_pretrained(tmp_path / "adapter")
    assert set(stager.trained_on) == set(train.index.unique("subject"))
    proba = stager.predict_proba(test)
    assert proba.index.equals(test.index) and proba.notna().all(axis=None)
    assert ss.score(test["stage"], proba)["n_epochs"] == len(test)


def test_signals_in_such_folders_are_read_as_signals(night, table, tmp_path):
    for epoch in range(5):
        (tmp_path / "2").mkdir(exist_ok=True)
        np.save(tmp_path / "2" / f"me-{epoch}.npy", 1e-6 * night.eeg_uv[epoch])
    read = contest.read_contest(tmp_path)
    np.testing.assert_allclose(read["std_uv"], table["std_uv"].iloc[:5], rtol=1e-5)
    assert read.index[0] == ("me", "me", 0) and (read["stage"] == 2).all()


@pytest.mark.parametrize("reason", KINDS)
def test_an_epoch_without_power_is_named(reason, tmp_path, night):
    (tmp_path / "0").mkdir()
    np.save(tmp_path / "0" / "a-0.npy", KINDS[reason])
    np.save(tmp_path / "0" / "a-1.npy", spectrogram(night.eeg_uv[0]))
    read = contest.read_contest(tmp_path)
    assert read["quality"].tolist() == [reason, "ok"]
    assert read.iloc[0][ss.feature_columns(read)].isna().all()


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"0/a-1.npy": np.zeros((59, 51))}, r"shape \(59, 51\)"),
        ({"0/a-1.npy": np.zeros(2999)}, r"shape \(2999,\)"),
        ({"0/a-1.npy": np.array(["x"] * 3000)}, "type <U1"),
        ({"0/a1.npy": np.ones((51, 59))}, "a1.npy is not named"),
        ({"0/a-1.npy": np.ones((51, 59)), "1/a-1.npy": np.ones((51, 59))}, "epoch 1 of a .* more than once"),
        ({"0/a-1.npy": np.ones((51, 59)), "1/a-2.npy": np.ones(3000)}, "a signal and .* a spectrogram"),
    ],
)
def test_other_files_are_refused_by_what_they_are(files, error, tmp_path):
    for name, array in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, array)
    with pytest.raises(ValueError, match=error):
        contest.read_contest(tmp_path)


def test_a_file_that_is_cut_off_or_hides_objects_is_refused(tmp_path):
    (tmp_path / "0").mkdir()
    np.save(tmp_path / "0" / "a-1.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="not a complete .npy file of numbers"):
        contest.read_contest(tmp_path)
    (tmp_path / "0" / "a-1.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(ValueError, match="not a complete .npy file of numbers"):
        contest.read_contest(tmp_path)


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="one folder for each stage"):
        contest.read_contest(tmp_path)


# ---------------------------------------------------------------- the archive


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in members.items():
            content.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def small(monkeypatch):
    """An archive of four files in the place of 5,813."""
    monkeypatch.setattr(contest, "N_FILES", 4)
    return {f"{contest.CONTEST_FOLDER}/{k}/a-{k}.npy": bytes(1000) for k in range(4)}


@pytest.fixture
def server():
    """Answers each path with what a test gave it: (status, body, bytes sent before the line is cut).

    All bytes if that is None, piece by piece if it is "slowly".
    """
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, sent = answers[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            pieces = np.array_split(np.frombuffer(body, np.uint8), 10) if sent == "slowly" else [body[:sent]]
            for piece in pieces:
                self.wfile.write(bytes(piece))
                time.sleep(0.05 if sent == "slowly" else 0)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield answers, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_complete_archive_is_fetched_once_and_unpacked(small, server, tmp_path):
    answers, address = server
    answers["/a.zip"] = (200, zipped(small), None)
    folder = contest.fetch_contest(tmp_path, f"{address}/a.zip")
    assert sorted(file.relative_to(tmp_path).as_posix() for file in folder.rglob("*.npy")) == sorted(small)
    answers.clear()  # nothing is asked for again
    assert contest.fetch_contest(tmp_path, f"{address}/a.zip") == folder


def test_an_archive_put_there_by_hand_is_used(small, tmp_path):
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(zipped(small))
    assert len(list(contest.fetch_contest(tmp_path).rglob("*.npy"))) == 4


def gdown_5(url=None, output=None, quiet=False, proxy=None, speed=None, use_cookies=True, verify=True,
            id=None, fuzzy=False, resume=False, format=None, user_agent=None, log_messages=None):  # fmt: skip
    """As in gdown 5.2, which reports failure by None."""
    return gave(url, output, id, resume)


def gdown_6(url=None, output=None, quiet=False, proxy=None, speed=None, use_cookies=True, verify=True,
            id=None, resume=False, format=None, user_agent=None, log_messages=None, progress=None,
            skip_download=False, cookies_file=None, hasher=None, timeout=None, retries=0,
            cancel=None):  # fmt: skip
    """As in gdown 6.5, which raises."""
    assert timeout and retries
    return gave(url, output, id, resume)


def gave(url, output, id, resume):
    assert (url is None) != (id is None) and resume
    if url == "nowhere":
        return None
    with open(output, "wb") as file:
        file.write(zipped({f"{contest.CONTEST_FOLDER}/{k}/a-{k}.npy": bytes(1000) for k in range(4)}))
    return output


@pytest.mark.parametrize("download", [gdown_5, gdown_6])
def test_both_versions_of_gdown_are_called_as_they_are_made(download, small, tmp_path, monkeypatch):
    monkeypatch.setattr("gdown.download", download)
    assert len(list(contest.fetch_contest(tmp_path / "drive").rglob("*.npy"))) == 4
    with pytest.raises(RuntimeError, match="(?s)download of AISContest_Data.zip failed.*By hand: open"):
        contest.fetch_contest(tmp_path / "none", "nowhere")


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_a_refusal_names_the_way_by_hand(status, small, server, tmp_path):
    answers, address = server
    answers["/a.zip"] = (status, b"no", None)
    refused = "(?s)(download of AISContest_Data.zip failed|no zip).*By hand: open"
    with pytest.raises((RuntimeError, ValueError), match=refused):  # gdown 5 keeps the page as the file
        contest.fetch_contest(tmp_path, f"{address}/a.zip")
    assert not (tmp_path / contest.CONTEST_FOLDER).exists()


def test_a_download_that_was_cut_off_goes_on_or_begins_anew(small, server, tmp_path):
    answers, address = server
    whole = zipped(dict.fromkeys(small, np.random.default_rng(0).bytes(1000)))
    answers["/a.zip"] = (200, whole, 300)
    with pytest.raises((RuntimeError, ValueError), match="By hand"):
        contest.fetch_contest(tmp_path, f"{address}/a.zip")
    answers["/a.zip"] = (200, whole, None)
    # A gdown that does not look appends to what it had; then the file is thrown away and comes anew.
    for _ in range(2):
        try:
            folder = contest.fetch_contest(tmp_path, f"{address}/a.zip")
        except ValueError as error:
            assert "By hand" in str(error)
    assert len(list(folder.rglob("*.npy"))) == 4


def test_a_page_in_the_archives_place_is_thrown_away(small, server, tmp_path):
    answers, address = server
    answers["/a.zip"] = (200, b"<!DOCTYPE html><html>Google Drive - Quota exceeded</html>", None)
    with pytest.raises(ValueError, match="(?s)a web page, probably about too many downloads.*By hand"):
        contest.fetch_contest(tmp_path, f"{address}/a.zip")
    answers["/a.zip"] = (200, zipped(small), None)
    assert contest.fetch_contest(tmp_path, f"{address}/a.zip").is_dir()


def test_a_server_that_says_a_wrong_length_is_found_out(small, server, tmp_path):
    answers, address = server
    answers["/a.zip"] = (200, zipped(small)[:-40], None)  # announces what it sends: 40 bytes too few
    with pytest.raises(ValueError, match="(?s)damaged.*By hand"):
        contest.fetch_contest(tmp_path, f"{address}/a.zip")


def test_a_slow_server_is_waited_for(small, server, tmp_path):
    answers, address = server
    answers["/a.zip"] = (200, zipped(small), "slowly")
    assert len(list(contest.fetch_contest(tmp_path, f"{address}/a.zip").rglob("*.npy"))) == 4


def test_a_download_that_is_cut_off_leaves_nothing_that_looks_complete(small, server, tmp_path):
    answers, address = server
    answers["/a.zip"] = (200, zipped(small), 300)
    with pytest.raises((RuntimeError, ValueError), match="By hand"):
        contest.fetch_contest(tmp_path, f"{address}/a.zip")
    assert not (tmp_path / contest.CONTEST_FOLDER).exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"<!DOCTYPE html><html>Too many users have viewed or downloaded this file", "a web page"),
        (b"", "no zip"),
        (b"PK\x03\x04" + bytes(50), "damaged"),
        (zipped({"other/0/a.npy": b"x"}), "0 of the expected 4"),
    ],
)
def test_what_is_not_the_archive_is_refused_with_the_way_by_hand(content, error, small, tmp_path):
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){error}.*By hand"):
        contest.fetch_contest(tmp_path)
    assert not (tmp_path / contest.CONTEST_FOLDER).exists()


def test_a_folder_that_is_there_stays_as_it_is(small, tmp_path):
    thesis = tmp_path / contest.CONTEST_FOLDER / "thesis.docx"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(zipped(small))
    assert contest.fetch_contest(tmp_path) == thesis.parent
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.docx"] and thesis.read_text() == "mine"


def test_other_files_of_the_archive_stay_packed(small, tmp_path):
    more = {
        "readme.txt": b"x",
        f"{contest.CONTEST_FOLDER}/5/a-1.npy": b"x",
        f"{contest.CONTEST_FOLDER}/0/": b"",
    }
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(zipped({**small, **more}))
    contest.fetch_contest(tmp_path)
    unpacked = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert unpacked == [f"{contest.CONTEST_FOLDER}.zip", *sorted(small)]


def test_an_encrypted_archive_is_refused(small, tmp_path):
    data = bytearray(zipped(small))
    data[6] |= 1  # the flags of the first file's own header, and below of its entry in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(data)
    with pytest.raises(ValueError, match="(?s)encrypted.*By hand"):
        contest.fetch_contest(tmp_path)


def test_a_flipped_bit_is_found(small, tmp_path):
    data = bytearray(zipped(dict.fromkeys(small, np.random.default_rng(0).bytes(1000))))
    data[200] ^= 1
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        contest.fetch_contest(tmp_path)


@pytest.mark.parametrize("name", ["/etc/x.npy", "../x.npy", "a/../../x.npy", "C:\\x.npy", "..\\x.npy"])
def test_members_that_leave_the_folder_are_refused(name, small, tmp_path):
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(zipped({**small, name: b"x"}))
    with pytest.raises(ValueError, match="outside the folder"):
        contest.fetch_contest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{contest.CONTEST_FOLDER}.zip"]


def test_links_are_refused(small, tmp_path):
    path = tmp_path / f"{contest.CONTEST_FOLDER}.zip"
    path.write_bytes(zipped(small))
    with zipfile.ZipFile(path, "a") as content:
        link = zipfile.ZipInfo(f"{contest.CONTEST_FOLDER}/link")
        link.external_attr = 0o120777 << 16
        content.writestr(link, "/etc")
    with pytest.raises(ValueError, match="is a link"):
        contest.fetch_contest(tmp_path)


def test_a_bomb_stays_packed(small, tmp_path, monkeypatch):
    monkeypatch.setattr(contest, "UNPACKED_LIMIT_BYTES", 3999)
    (tmp_path / f"{contest.CONTEST_FOLDER}.zip").write_bytes(zipped(small))
    with pytest.raises(ValueError, match="4,000 bytes, expected at most 3,999"):
        contest.fetch_contest(tmp_path)
    assert not (tmp_path / contest.CONTEST_FOLDER).exists()
