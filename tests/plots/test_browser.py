"""The widgets for real: JupyterLab in headless Chromium runs a notebook, a mouse moves its sliders.

Chromium is steered through its DevTools protocol, so that no driver of a certain version is needed. A
screenshot is kept in ``results/``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RESULTS = Path(__file__).parents[2] / "results"
PATIENCE_S = 240  # a busy machine needs a minute to start a kernel and import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt install chromium)"),
]

CELLS = (
    """import sleepstage as ss

night = ss.load_demo()
table = ss.extract_features(night)
spec = ss.PromptSpec(ss.default_digits(table)[:2], window=3)
stager = ss.Stager.from_base(spec, {base!r}, nf4=False)
proba = stager.predict_proba(table)""",
    "ss.night_explorer(night, table, proba, spec)",
    "ss.what_if(table, stager, 300)",
    "ss.night_scorer(night, table, stager, proba)",
    "ss.beat_the_expert(night, table, {{'model': proba}})",
)


def wait_for(what, condition):
    """Ask again and again until the answer is true, and give it; fail with a name when patience ends."""
    end = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.3)
    return answer


@contextmanager
def running(command, log, **settings):
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, **settings) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


class Page:
    """A page of a Chromium, by the DevTools protocol."""

    def __init__(self, address):
        self.connection = websocket.create_connection(address, suppress_origin=True, timeout=PATIENCE_S)
        self.n_sent = 0

    def send(self, method, **params):
        self.n_sent += 1
        self.connection.send(json.dumps({"id": self.n_sent, "method": method, "params": params}))
        while (answer := json.loads(self.connection.recv())).get("id") != self.n_sent:
            pass  # an event, not the answer
        assert "error" not in answer, answer
        return answer["result"]

    def js(self, expression):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, element, share=0.5):
        """Press the mouse on an element (a JavaScript expression), at a share of its width."""
        self.js(f"{element}.scrollIntoView({{block: 'center'}})")
        x, y, width, height = self.js(
            f"(r => [r.x, r.y, r.width, r.height])({element}.getBoundingClientRect())"
        )
        place = {"x": x + share * width, "y": y + height / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **place)

    def press(self, key, code, text=""):
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, n):
        """The pixels of the n-th widget's picture, as a data URL; empty while it is not there."""
        return self.js(
            f"""(image => {{
                if (!image || !image.complete || !image.naturalWidth) return "";
                const canvas = document.createElement("canvas");
                [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
                canvas.getContext("2d").drawImage(image, 0, 0);
                return canvas.toDataURL();
            }})(document.querySelectorAll("img.widget-image")[{n}])"""
        )

    def screenshot(self, path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture
def lab(tmp_path, tiny_base):
    """The address of a JupyterLab that serves the notebook, with none of the user's settings."""
    work, config = tmp_path / "work", tmp_path / "config"
    work.mkdir()
    cells = [nbformat.v4.new_code_cell(source.format(base=str(tiny_base))) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), work / "touch.ipynb")
    (config / "labconfig").mkdir(parents=True)
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig" / "page_config.json").write_text(json.dumps(quiet))
    whole = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}  # cells off the screen too
    (config / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(whole))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=t"]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {"JUPYTER_CONFIG_DIR": str(config), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    log = tmp_path / "lab.log"
    with running(command, log, cwd=work, env=environment):
        wait_for("JupyterLab to start", lambda: b"is running at" in log.read_bytes())
        yield f"http://127.0.0.1:{port}/lab/tree/touch.ipynb?token=t"


@pytest.fixture
def page(tmp_path):
    """A page in a Chromium of its own."""
    profile = tmp_path / "profile"
    command = [CHROMIUM, "--headless=new", "--disable-gpu", "--window-size=1500,2100", "about:blank"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses to be root with it
    with running(command, tmp_path / "chromium.log"):
        port_file = profile / "DevToolsActivePort"
        wait_for("Chromium to start", lambda: port_file.exists() and port_file.read_text().count("\n"))
        port = port_file.read_text().split()[0]
        targets = json.load(urlopen(f"http://127.0.0.1:{port}/json"))
        page = Page(next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page"))
        yield page
        page.connection.close()


def test_widgets_follow_the_mouse(lab, page):
    page.send("Page.navigate", url=lab)
    ready = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].some(w => w.sessionContext?.isReady)"
    wait_for("the notebook and its kernel", lambda: page.js(ready))
    page.click("document.querySelector('.jp-CodeCell .cm-content')")  # commands go to the notebook clicked on
    page.js("void jupyterapp.commands.execute('notebook:run-all-cells')")
    explorer = wait_for("the explorer's picture", lambda: page.picture(0))
    what_if = wait_for("the picture of what_if", lambda: page.picture(1))

    readout = "document.querySelectorAll('.widget-slider .widget-readout')[0].textContent"
    before = page.js(readout)
    page.click("document.querySelectorAll('.noUi-base')[0]", share=0.8)
    wait_for("the explorer to redraw", lambda: page.picture(0) not in ("", explorer))
    assert int(before.split()[0]) == 420 < int(page.js(readout).split()[0])

    digit = "document.querySelectorAll('.widget-dropdown select')[1]"
    page.click(digit)
    time.sleep(1)  # the list is a window of its own, which the page cannot see open
    page.press("ArrowDown", 40)
    page.press("Enter", 13, text="\r")
    wait_for("what_if to name the second digit", lambda: page.picture(1) not in ("", what_if))
    assert page.js(f"{digit}.selectedOptions[0].textContent").startswith("2:")
    probabilities = "[...document.querySelectorAll('.widget-html pre')].at(-1).textContent"
    first = re.findall(r"([\d.]+) → ([\d.]+) %", page.js(probabilities))
    assert len(first) == 5 and any(was != now for was, now in first)  # it opens with a change

    what_if = page.picture(1)
    level = int(page.js("document.querySelectorAll('.widget-slider .widget-readout')[1].textContent"))
    page.click("document.querySelectorAll('.noUi-base')[1]", share=0.99 if level < 5 else 0.01)
    wait_for("what_if to redraw", lambda: page.picture(1) not in ("", what_if))
    changed = re.findall(r"([\d.]+) → ([\d.]+) %", page.js(probabilities))
    assert [was for was, _ in changed] == [was for was, _ in first]
    assert changed != first

    scorer = page.picture(2)
    buttons = "document.querySelectorAll('.widget-toggle-buttons')[{}].querySelectorAll('button')[{}]"
    tables = "[...document.querySelectorAll('.widget-html table.dataframe')]"
    rows = f"{tables}[0].querySelectorAll('tbody tr').length"
    assert page.js(rows) == 1  # the reading without hints
    page.click(buttons.format(0, 3))
    page.click(
        "[...document.querySelectorAll('button')].find(b => b.textContent.startsWith('read the night'))"
    )
    wait_for("the night to be read again", lambda: page.js(rows) == 2)
    wait_for("the scorer to redraw", lambda: page.picture(2) not in ("", scorer))

    place = "[...document.querySelectorAll('.widget-slider .widget-readout')].at(-1).textContent"
    for turn in range(10):
        here = page.js(place)
        page.click(buttons.format(1, turn % 5))
        if turn < 9:
            wait_for("the next of the ten epochs", lambda here=here: page.js(place) != here)
    wait_for("the comparison", lambda: page.js(f"{tables}.length") == 2)
    assert {"you", "model", "expert"} < set(page.js(f"{tables}[1].innerText").split())
    assert not page.js("document.querySelectorAll('.jp-OutputArea-output[data-mime-type*=stderr]').length")
    page.screenshot(RESULTS / "widgets_in_jupyterlab.png")
