"""Runs each case against every target and compares what it returns."""

import asyncio
import functools
import logging
import re
import time
import unittest
import uuid
from typing import Any, Awaitable, Callable

from copilot import CopilotClient, CopilotSession, RuntimeConnection
from copilot.session import PermissionHandler
from copilot.session_events import SessionEvent

from processes import TARGETS, Model, Target, target_names

# How long anything on loopback may take on a busy machine.
PATIENCE_S = 20
CASE_TIMEOUT_S = 60

# The SDK logs every refusal with its stack, and an event of the CLI's that its types do not know.
for name in ("copilot", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# What a user of the SDK acts on; the rest varies between two runs of the same turn.
TOLD = {
    "user.message": lambda data: data.content,
    "assistant.turn_start": lambda data: "",
    "assistant.message_delta": lambda data: "",
    "assistant.message": lambda data: data.content,
    "assistant.turn_end": lambda data: "",
    "tool.execution_start": lambda data: data.tool_name,
    "tool.execution_complete": lambda data: "ok" if data.success else f"failed: {data.error.message}",
    "external_tool.requested": lambda data: data.tool_name,
    "permission.requested": lambda data: data.permission_request.kind,
    "session.error": lambda data: f"{data.error_type}: {data.message}",
    "session.idle": lambda data: "",
}

REPLACEMENTS = [
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    (r"(/[\w.-]+)*/jetway-sdk-py-[\w-]+(/[\w.-]+)*", "<path>"),
    (r"127\.0\.0\.1:\d+", "<address>"),
    (r"shellId: \d+", "shellId: <n>"),
]


def normalise(value: Any) -> Any:
    """Replaces ids, paths and addresses in every string of `value`."""
    if isinstance(value, str):
        return functools.reduce(lambda text, by: re.sub(*by, text), REPLACEMENTS, value)
    if isinstance(value, (list, tuple)):
        return [normalise(each) for each in value]
    if isinstance(value, dict):
        return {key: normalise(each) for key, each in value.items()}
    return value


def lines(events: list[SessionEvent]) -> list[str]:
    """One short line for each event that matters; runs of deltas become one line."""
    told: list[str] = []
    for event in events:
        kind = event.type.value
        if kind not in TOLD:
            continue
        line = f"{kind} {TOLD[kind](event.data)}".strip()
        if not (kind.endswith("_delta") and told and told[-1] == line):
            told.append(line)
    return told


class Recorder(list):
    """A session's events from its first one on; `take` is handed to the SDK as `on_event`."""

    def take(self, event: SessionEvent) -> None:
        self.append(event)

    def of(self, kind: str) -> list[SessionEvent]:
        return [event for event in self if event.type.value == kind]

    async def seen(self, kind: str, count: int = 1) -> SessionEvent:
        """Waits for the `count`-th event of `kind`."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.of(kind)) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} × {kind} not among {lines(self)}")
            await asyncio.sleep(0.01)
        return self.of(kind)[count - 1]


class Scene:
    """What a case gets: one target, and clients and sessions on it that are cleaned up after it."""

    def __init__(self, target: Target, model: Model):
        self.target = target
        self.model = model
        self._clients: list[CopilotClient] = []

    async def client(self, user: str = "alice") -> CopilotClient:
        """A connected client of `user`."""
        connection = RuntimeConnection.for_uri(self.target.address, connection_token=self.target.token(user))
        client = CopilotClient(connection=connection)
        self._clients.append(client)
        await client.start()
        return client

    def config(self, **extra: Any) -> dict[str, Any]:
        """Session settings: scripted model, streaming, everything approved, an own directory."""
        directory = self.target.dir / str(uuid.uuid4())
        directory.mkdir()
        return {
            "session_id": str(uuid.uuid4()),
            "model": "scripted",
            "provider": {"type": "openai", "base_url": self.model.base_url, "api_key": "sk-test"},
            "streaming": True,
            "on_permission_request": PermissionHandler.approve_all,
            "working_directory": str(directory),
            **extra,
        }

    async def session(self, client: CopilotClient, **extra: Any) -> tuple[CopilotSession, Recorder, dict[str, Any]]:
        """A new session, the recorder of its events and its settings."""
        recorder = Recorder()
        config = self.config(on_event=recorder.take, **extra)
        return await client.create_session(**config), recorder, config

    async def resume(self, client: CopilotClient, config: dict[str, Any]) -> tuple[CopilotSession, Recorder]:
        """The session of `config` again, for `client`."""
        recorder = Recorder()
        return await client.resume_session(**{**config, "on_event": recorder.take}), recorder

    async def close(self) -> None:
        for client in self._clients:
            await client.force_stop()


async def say(session: CopilotSession, prompt: str) -> str | None:
    """A turn's final text."""
    answer = await session.send_and_wait(prompt, timeout=PATIENCE_S)
    return answer and answer.data.content


async def refusal(attempt: Awaitable[Any]) -> str:
    """What the error of `attempt` says; fails when there is none."""
    try:
        await attempt
    except Exception as error:
        return str(error)
    raise AssertionError("should have been refused")


class Conformance(unittest.IsolatedAsyncioTestCase):
    """Cases that share a model and the targets."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.model = Model()
        cls.addClassCleanup(cls.model.stop)
        cls.targets = []
        for name in target_names():
            target = TARGETS[name]()
            cls.addClassCleanup(target.stop)
            cls.targets.append(target)


def case(run: Callable[[Any, Scene], Awaitable[Any]]) -> Callable[[Conformance], Awaitable[None]]:
    """A test that asserts what must hold on any target and returns what must be the same on all of them."""

    @functools.wraps(run)
    async def test(self: Conformance) -> None:
        outcomes = {}
        for target in self.targets:
            scene = Scene(target, self.model)
            try:
                with self.subTest(target=target.name):
                    async with asyncio.timeout(CASE_TIMEOUT_S):
                        outcomes[target.name] = normalise(await run(self, scene))
            finally:
                await scene.close()
        first, *others = outcomes or [None]
        for name in others:
            self.assertEqual(outcomes[name], outcomes[first], f"{name} differs from {first}")

    return test
