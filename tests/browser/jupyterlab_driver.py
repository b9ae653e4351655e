"""A JupyterLab of its own in a real browser, and the user's hand."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from conftest import REPOSITORY

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
SCREENSHOTS = REPOSITORY / "outputs" / "test_screenshots"


@contextmanager
def jupyter_lab(folder: Path):
    """The address of a JupyterLab of its own that has the notebooks in `folder/notebooks`."""
    for name, values in SETTINGS.items():
        path = folder / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_DATA_DIR="data",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
        JUPYTER_RUNTIME_DIR="runtime",
    )
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
        "--allow-root",
    ]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | {name: str(folder / value) for name, value in own.items()},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/api", timeout=2).status == 200, 60)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def opened(browser, address: str):
    """A notebook whose kernel is ready."""
    page = browser.new_page(viewport=dict(width=1400, height=1000))
    page.goto(address)
    page.wait_for_function(
        "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady"
        " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
        timeout=90_000,
    )
    return page


def run_cells(page):
    """Begin to run all cells."""
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")


def run_all(browser, address: str):
    """Open a notebook, run all its cells; no cell may fail."""
    page = opened(browser, address)
    run_cells(page)
    page.wait_for_function(
        "() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code')"
        ".every(c => c.executionCount !== null && c.executionState !== 'running')"
        " && jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
        timeout=300_000,
    )
    errors = page.evaluate(
        "() => [...jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code')"
        ".flatMap(c => c.toJSON().outputs).filter(o => o.output_type === 'error').map(o => o.evalue)"
    )
    assert errors == [], errors
    return page
