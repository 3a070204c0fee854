"""Starts and stops the programs under test, each by its own process id."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "target" / "debug"
START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10
# The connection token of the direct runtime; through Jetway the token is the user's name.
DIRECT_TOKEN = "conformance-token"


def runtime_path() -> str:
    """The runtime that the installed npm packages bring for this platform."""
    if path := os.environ.get("COPILOT_RUNTIME_BIN"):
        return path
    packages = HERE.parent / "node_modules" / "@github"
    found = sorted(packages.glob("copilot-sdk-*/prebuilds/*/copilot-runtime"))
    if not found:
        raise FileNotFoundError(f"no copilot-runtime below {packages}: run deploy/setup test")
    return str(found[0])


class Program:
    """A running program whose output goes to a file, so that it can never block on us."""

    def __init__(self, command: list[str], env: dict[str, str], announced: str):
        """Returns once the output matches the pattern `announced`, whose first group is `self.found`."""
        self._dir = tempfile.mkdtemp(prefix="jetway-sdk-py-")
        self._log = Path(self._dir, "log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.found = self._await(announced)
        except BaseException:
            self.stop()
            raise

    def _await(self, announced: str) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            output = self._log.read_text(errors="replace")
            if match := re.search(announced, output):
                return match[1]
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._process.args} did not start ({self._process.poll()}):\n{output[-4000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)


class Model:
    """The scripted model: see loadtest/src/model/mod.rs for what a prompt makes it do."""

    def __init__(self) -> None:
        command = os.environ.get("SCRIPTED_MODEL_BIN", str(BUILT / "scripted-model"))
        self._program = Program([command], dict(os.environ), r"listening on (http:\S+)\n")
        self.base_url = self._program.found

    def ledger(self) -> list[dict]:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/ledger") as answer:
            return [json.loads(line) for line in answer.read().decode().splitlines()]

    def stop(self) -> None:
        self._program.stop()


@dataclass
class Target:
    """Something that an SDK can connect to."""

    name: str
    address: str
    token: Callable[[str], str]
    dir: Path
    _program: Program = field(repr=False)

    def stop(self) -> None:
        self._program.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


def _scratch() -> tuple[Path, dict[str, str]]:
    """A home that holds nothing of the machine's own set-up."""
    directory = Path(tempfile.mkdtemp(prefix="jetway-sdk-py-"))
    home = directory / "home"
    home.mkdir()
    return directory, {"PATH": os.environ["PATH"], "HOME": str(home), "COPILOT_HOME": str(home / "copilot")}


def _direct() -> Target:
    directory, env = _scratch()
    env["COPILOT_CONNECTION_TOKEN"] = DIRECT_TOKEN
    program = Program([runtime_path(), "--headless", "--port", "0"], env, r"port (\d+)")
    return Target("direct", f"127.0.0.1:{program.found}", lambda _: DIRECT_TOKEN, directory, program)


def _jetway() -> Target:
    directory, env = _scratch()
    config = directory / "jetway.toml"
    config.write_text(
        '[listen]\nsdk = "127.0.0.1:0"\nhttp = "off"\nadmin = "off"\n'
        "[auth]\nanonymous = true\n"
        "[tenants.default]\nrequests_per_second = 10000\n"
        f'[pool.process]\nstate_dir = "{directory / "state"}"\ncommand = ["{runtime_path()}"]\n'
        # Where the sessions work.
        f'[tenants.default.policy]\nallow_paths = ["{directory}"]\n'
    )
    command = os.environ.get("JETWAY_BIN", str(BUILT / "jetway"))
    program = Program([command, "serve", "--config", str(config)], env, r"sdk listening on (\S+:\d+)")
    return Target("jetway", program.found, lambda user: user, directory, program)


TARGETS = {"direct": _direct, "jetway": _jetway}


def target_names() -> list[str]:
    """The targets named in `TARGETS`, by default both."""
    return os.environ.get("TARGETS", "direct,jetway").split(",")
