"""What the official Python SDK does directly against a Copilot CLI server it does through Jetway."""

import asyncio
import unittest
import uuid

from copilot.rpc import PermissionDecisionApproveOnce, PermissionDecisionReject
from copilot.tools import Tool, ToolInvocation, ToolResult

from harness import Conformance, case, lines, refusal, say

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
SHELL = '[[tool bash {"command":"echo hello from the shell","description":"greet"}]]'
ASK = '[[tool ask_user {"question":"Which colour?","choices":["red","blue"]}]]'


def echo(call: ToolInvocation) -> ToolResult:
    return ToolResult(text_result_for_llm=f"<{call.arguments['text']}>")


ECHO = Tool(name="echo", description="Echoes", parameters=TEXT, handler=echo, skip_permission=True)


class Connections(Conformance):
    @case
    async def test_ping(self, t):
        pong = await (await t.client()).ping("yo")
        return [pong.message, pong.protocol_version]

    @case
    async def test_status(self, t):
        status = await (await t.client()).get_status()
        return [status.version, status.protocol_version]

    @case
    async def test_an_unknown_session_is_refused(self, t):
        client = await t.client()
        return await refusal(t.resume(client, t.config(session_id="no-such-session")))

    @case
    async def test_creating_a_session_that_exists_joins_it(self, t):
        session, _, config = await t.session(await t.client())
        await say(session, "first")
        again, _, _ = await t.session(await t.client(), session_id=config["session_id"])
        return await say(again, "history")

    @case
    async def test_two_users_at_once(self, t):
        async def talk(user: str) -> list:
            client = await t.client(user)
            session, recorder, config = await t.session(client)
            answers = [await say(session, f"{user} says {n}") for n in range(3)]
            listed = {each.session_id for each in await client.list_sessions()}
            return [answers, lines(recorder), config["session_id"], listed]

        ada, linus = await asyncio.gather(talk("ada"), talk("linus"))
        self.assertIn(ada[2], ada[3])
        self.assertIn(linus[2], linus[3])
        if t.target.name == "jetway":
            self.assertTrue(ada[3].isdisjoint(linus[3]), "one user sees the other's sessions")
        return [ada[:2], linus[:2]]


class Turns(Conformance):
    @case
    async def test_streams_word_by_word(self, t):
        session, recorder, _ = await t.session(await t.client())
        answer = await say(session, "[[say one two three four]]")
        deltas = [event.data.delta_content for event in recorder.of("assistant.message_delta")]
        self.assertEqual("".join(deltas), answer)
        self.assertGreaterEqual(len(deltas), 4)
        return [deltas, lines(recorder)]

    @case
    async def test_custom_tool(self, t):
        session, recorder, _ = await t.session(await t.client(), tools=[ECHO])
        answer = await say(session, '[[tool echo {"text":"hi"}]]')
        self.assertIn("<hi>", answer)
        return [answer, lines(recorder)]

    @case
    async def test_a_tool_that_fails(self, t):
        def broken(_: ToolInvocation) -> ToolResult:
            raise ValueError("out of order")

        tool = Tool(name="broken", description="Fails", parameters=TEXT, handler=broken, skip_permission=True)
        session, recorder, _ = await t.session(await t.client(), tools=[tool])
        return [await say(session, "[[tool broken]]"), lines(recorder)]

    @case
    async def test_permission_given(self, t):
        asked = []

        async def approve(request, _):
            asked.append([request.kind, request.full_command_text])
            return PermissionDecisionApproveOnce()

        session, recorder, _ = await t.session(await t.client(), on_permission_request=approve)
        answer = await say(session, SHELL)
        self.assertIn("hello from the shell", answer)
        return [answer, asked, lines(recorder)]

    @case
    async def test_permission_refused(self, t):
        reject = lambda request, _: PermissionDecisionReject(feedback="not today")
        session, recorder, _ = await t.session(await t.client(), on_permission_request=reject)
        return [await say(session, SHELL), lines(recorder)]

    @case
    async def test_hooks(self, t):
        called = []

        async def before(given, _):
            called.append(["before", given["toolName"], given["toolArgs"]])
            return {"permissionDecision": "allow", "modifiedArgs": {"text": "changed"}}

        async def after(given, _):
            called.append(["after", given["toolName"]])

        hooks = {"on_pre_tool_use": before, "on_post_tool_use": after}
        session, recorder, _ = await t.session(await t.client(), tools=[ECHO], hooks=hooks)
        answer = await say(session, '[[tool echo {"text":"as sent"}]]')
        self.assertIn("<changed>", answer)
        return [answer, called, lines(recorder)]

    @case
    async def test_user_input(self, t):
        asked = []

        def answer(request, _):
            asked.append({key: value for key, value in request.items() if key != "sessionId"})
            return {"answer": "blue", "wasFreeform": False}

        session, recorder, _ = await t.session(await t.client(), on_user_input_request=answer)
        said = await say(session, ASK)
        self.assertIn("blue", said)
        return [said, asked, lines(recorder)]

    @case
    async def test_bearer_token_provider(self, t):
        asked = []

        async def token(args):
            asked.append(args["provider_name"])
            return "fresh-token"

        provider = {"type": "openai", "base_url": t.model.base_url, "bearer_token_provider": token}
        session, _, _ = await t.session(await t.client(), provider=provider)
        answer = await say(session, "hello")
        self.assertTrue(asked)
        return [answer, set(asked) == {"default"}]

    @case
    async def test_abort(self, t):
        session, recorder, _ = await t.session(await t.client())
        await session.send("[[stream 1000 10 20]]")
        await recorder.seen("assistant.message_delta", 3)
        await session.abort()
        await recorder.seen("session.idle")
        return [await say(session, "still there?"), len(recorder.of("session.error"))]

    @case
    async def test_a_model_error(self, t):
        session, recorder, _ = await t.session(await t.client())
        error = await refusal(say(session, "[[error 400 no such thing]]"))
        await recorder.seen("session.idle")
        return [error, lines(recorder)]


class Lives(Conformance):
    @case
    async def test_resumed_with_history(self, t):
        client = await t.client()
        session, _, config = await t.session(client, tools=[ECHO])
        await say(session, "first")
        await session.disconnect()
        again, recorder = await t.resume(client, config)
        answer = await say(again, "history")
        self.assertEqual(answer, "History: first")
        called = await say(again, '[[tool echo {"text":"again"}]]')
        return [answer, called, lines(recorder), lines(await again.get_events())]

    @case
    async def test_resumed_by_another_client_after_a_lost_connection(self, t):
        client = await t.client()
        session, recorder, config = await t.session(client)
        await say(session, "before")
        await session.send("[[stream 150 10 20]]")
        await recorder.seen("assistant.message_delta", 3)
        await client.force_stop()
        again, recorder = await t.resume(await t.client(), config)
        if t.target.name == "jetway":
            # There the turn runs on, and who comes back sees the rest of it.
            await recorder.seen("session.idle")
        answer = await say(again, "history")
        self.assertTrue(answer.startswith("History: before"), answer)

    @case
    async def test_listed_and_deleted(self, t):
        client = await t.client()
        session, _, config = await t.session(client)
        await say(session, "to be deleted")
        listed = {each.session_id: each for each in await client.list_sessions()}
        summary = listed[session.session_id].summary
        await client.delete_session(session.session_id)
        self.assertIsNone(await client.get_session_metadata(session.session_id))
        self.assertNotIn(session.session_id, {each.session_id for each in await client.list_sessions()})
        return [summary, await refusal(t.resume(client, config)), await refusal(client.delete_session("nobody"))]

    @case
    async def test_every_prompt_reaches_the_model_once(self, t):
        nonces = [str(uuid.uuid4()) for _ in range(3)]
        session, _, _ = await t.session(await t.client())
        for nonce in nonces:
            await say(session, f"nonce:{nonce}")
        began = [line["nonce"] for line in t.model.ledger() if line["event"] == "began" and line["nonce"] in nonces]
        self.assertEqual(began, nonces)


if __name__ == "__main__":
    unittest.main()
