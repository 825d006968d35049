"""A real JupyterLab, a file server and a real browser, for the tests of pages and benchmarks/watching.py. Imports nothing of vtd."""

import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
ARGUMENTS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
             "--disable-sync")
QUIET = {"notification": '{"fetchNews": "false", "checkForUpdates": false}', "themes": '{"theme": "JupyterLab %s"}'}
LIVE = ".vtd-live[data-state]"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said): pass


@contextmanager
def served(folder: Path):
    """A file server on `folder`; gives its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def chromium():
    """A headless browser, by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        program = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS.split())
        yield program
        program.close()


def write_notebook(path: Path, cells: list[str]) -> Path:
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=kernel), path)
    return path


@contextmanager
def jupyterlab(folder: Path, theme: str = "Light"):
    """JupyterLab on `folder`, with settings of its own; gives its address. `VTD_HEADLESS` is not set in its kernels."""
    with tempfile.TemporaryDirectory(prefix="vtd-lab-", ignore_cleanup_errors=True) as home, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
        door.close()
        own = Path(home, "settings", "@jupyterlab", "apputils-extension")
        own.mkdir(parents=True)
        for name, text in QUIET.items(): (own / f"{name}.jupyterlab-settings").write_text(text % theme if "%" in text else text)
        folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
                   "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        around = {k: v for k, v in os.environ.items() if k != "VTD_HEADLESS"} | {k: f"{home}/{v}" for k, v in folders.items()}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.token=vtd", f"--ServerApp.port={port}",
                   f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly"]
        with open(Path(home, "log"), "w") as log:
            server = subprocess.Popen(command, env=around, stdout=log, stderr=subprocess.STDOUT)
            try:
                wait_until(lambda: answers(f"http://127.0.0.1:{port}/api"), 60, "JupyterLab does not answer")
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()
                server.wait(20)


def answers(url: str) -> bool:
    try: return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError: return False


def has_kernel(address: str, notebook: str) -> bool:
    """Whether the server runs a kernel for this notebook that waits for work and that a page listens to."""
    with urllib.request.urlopen(f"{address}/api/sessions?token=vtd", timeout=10) as told: sessions = json.load(told)
    kernels = [s["kernel"] for s in sessions if s["path"] == notebook and s["kernel"]]
    return any(k["execution_state"] == "idle" and k["connections"] for k in kernels)


def wait_until(true, seconds: float, complaint: str) -> float:
    """Seconds until `true()`; AssertionError with the complaint if it takes longer than `seconds`."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, complaint
        time.sleep(0.02)
    return time.monotonic() - begun


class Bench:
    """A notebook open in JupyterLab, in a page of a browser; `faults` are errors and dialogs of its scripts."""

    def __init__(self, browser, address: str, notebook: str, dark: bool = False, **context):
        self.page = browser.new_context(viewport={"width": 1180, "height": 1000}, color_scheme="dark" if dark else "light", **context).new_page()
        self.faults, self.ran = [], 0
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        self.page.add_locator_handler(self.page.locator("dialog.jp-Dialog").first, self.accept)
        self.page.goto(f"{address}/lab/tree/{notebook}?token=vtd&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        wait_until(lambda: has_kernel(address, notebook), 60, "the notebook gets no kernel")  # before it has one JupyterLab calls itself idle too
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)

    def run_cell(self, done: bool = True) -> None:
        """Run the next cell, as a person does, and wait until it is done. A press before the kernel is there is lost: it is pressed again."""
        prompt = self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-prompt").nth(self.ran)
        for _ in range(40):
            prompt.click()
            self.press("run")
            self.page.wait_for_timeout(250)
            if prompt.inner_text() != "[ ]:": break
        self.ran += 1
        if done: wait_until(lambda: any(c.isdigit() for c in prompt.inner_text()), 60, "the cell does not end")

    def accept(self, dialog) -> None:
        """On a busy machine JupyterLab may ask which kernel: what it offers is right. Its words stand beside a test that fails."""
        print("JupyterLab asked:", dialog.inner_text())
        dialog.locator(".jp-mod-accept").click()

    def press(self, name: str) -> None:
        """A button of the notebook's tool bar."""
        item = f'.jp-NotebookPanel-toolbar [data-jp-item-name="{name}"]'
        self.page.click(f"{item} button, {item} jp-button")

    def button(self, name: str):
        """A button of the watched run."""
        return self.page.locator(LIVE).get_by_role("button", name=name, exact=True)

    def told(self, name: str) -> str:
        """What the watched run says of itself: step, state, rate, frames."""
        return self.page.evaluate(f"document.querySelector('{LIVE}')?.dataset.{name} ?? ''")

    def step(self) -> int: return int(self.told("step") or 0)

    def shot(self, folder: Path, name: str) -> None:
        """A picture of each output, for people to look at."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, tool in enumerate(self.page.query_selector_all(".vtd-live")):
            tool.scroll_into_view_if_needed()
            tool.screenshot(path=folder / f"{name}-{i}.png")

    def save(self) -> None: self.press("save")
