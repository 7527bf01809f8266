"""Chat models as people write them with MLflow's classes. What the user says tells them what to do."""

import os
import time
import uuid

from mlflow.pyfunc import ChatAgent, ChatModel, PythonModel, ResponsesAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse
from mlflow.types.llm import ChatChoice, ChatCompletionChunk, ChatCompletionResponse, ChatMessage
from mlflow.types.llm import ChatChoiceDelta, ChatChunkChoice, FunctionToolCallArguments, TokenUsageStats
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def obey(word):
    if word == "fail":
        raise RuntimeError("canary-of-the-model")
    if word == "crash":
        os.abort()
    if word == "doze":
        time.sleep(60)


def words(messages):
    """What is said back: who spoke, and the last words."""
    last = messages[-1].content
    obey(last)
    return [*(f"{message.role} " for message in messages[:-1]), *(word + " " for word in last.split())]


class Whole(ChatModel):
    """No stream, no usage."""

    def predict(self, context, messages, params):
        text = "".join(words(messages)) + f"at {params.temperature:g}"
        return ChatCompletionResponse(choices=[ChatChoice(message=ChatMessage(role="assistant", content=text))])


class Streamed(ChatModel):
    def predict(self, context, messages, params):
        if params.tools:
            call = FunctionToolCallArguments(name=params.tools[0].function.name, arguments='{"x": 1}').to_tool_call("c1")
            message = ChatMessage(role="assistant", content=None, tool_calls=[call])
            return ChatCompletionResponse(choices=[ChatChoice(message=message, finish_reason="tool_calls")])
        message = ChatMessage(role="assistant", content="".join(words(messages)))
        return ChatCompletionResponse(choices=[ChatChoice(message=message)], usage=TokenUsageStats(**USAGE), model="m")

    def predict_stream(self, context, messages, params):
        kind, _, count = messages[-1].content.partition(" ")
        if kind == "count":
            # Notes how far it came, where a test can ask for it.
            self.seen = 0
            for number in range(int(count)):
                self.seen = number + 1
                time.sleep(0.02)
                yield chunk(f"{number} ")
            return
        if kind == "flood":
            self.seen = 0
            for number in range(int(count)):
                self.seen = number + 1
                yield chunk("x" * 10_000)
            return
        if kind == "seen":
            yield chunk(str(self.seen))
            return
        for number, word in enumerate(words(messages)):
            if word == "late " and number:
                raise RuntimeError("canary-of-the-model")
            if word == "abort " and number:
                os.abort()
            yield chunk(word)
        yield ChatCompletionChunk(
            choices=[ChatChunkChoice(delta=ChatChoiceDelta(content=None), finish_reason="stop")],
            usage=TokenUsageStats(**USAGE),
        )


def chunk(text):
    return ChatCompletionChunk(choices=[ChatChunkChoice(delta=ChatChoiceDelta(content=text))])


class Agent(ChatAgent):
    """Calls a tool of its own on the way."""

    def messages(self, messages):
        call = {"id": "own", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        return [
            ChatAgentMessage(role="assistant", content="", tool_calls=[call], id=str(uuid.uuid4())),
            ChatAgentMessage(role="tool", name="look", content="found", tool_call_id="own", id=str(uuid.uuid4())),
            ChatAgentMessage(role="assistant", content="".join(words(messages)), id=str(uuid.uuid4())),
        ]

    def predict(self, messages, context=None, custom_inputs=None):
        if messages[-1].content == "call":
            return ChatAgentResponse(messages=self.messages(messages)[:1])
        if messages[-1].content == "custom":
            return ChatAgentResponse(messages=[ChatAgentMessage(role="assistant", content=str(custom_inputs), id="c")])
        return ChatAgentResponse(messages=self.messages(messages), usage=USAGE)

    def predict_stream(self, messages, context=None, custom_inputs=None):
        if messages[-1].content == "call":
            yield ChatAgentChunk(delta=self.messages(messages)[0])
            return
        first, tool, last = self.messages(messages)
        yield ChatAgentChunk(delta=first)
        yield ChatAgentChunk(delta=tool)
        for word in words(messages):
            yield ChatAgentChunk(delta=ChatAgentMessage(role="assistant", content=word, id=last.id))


class Responder(ResponsesAgent):
    """Streams one message by its words and one only when it is finished, and answers a call of its own."""

    def items(self, request):
        spoken = [item.model_dump() for item in request.input]
        obey(spoken[-1]["content"])
        if spoken[-1]["content"] == "call":
            return [self.create_function_call_item(id="fc", call_id="theirs", name="look", arguments="{}")]
        roles = " ".join(item.get("role", "?") for item in spoken)
        return [
            self.create_function_call_item(id="fc", call_id="own", name="look", arguments="{}"),
            self.create_function_call_output_item(call_id="own", output="found"),
            self.create_text_output_item(text=f"{roles}: ", id="m1"),
            self.create_text_output_item(text=spoken[-1]["content"], id="m2"),
        ]

    def predict(self, request):
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return ResponsesAgentResponse(output=self.items(request), usage=usage)

    def predict_stream(self, request):
        items = self.items(request)
        for word in [] if len(items) == 1 else items[2]["content"][0]["text"].split(" ")[:-1]:
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=word + " ", item_id="m1"))
        for item in items:
            yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)


class Plain(PythonModel):
    """Says in its metadata that it chats; answers text."""

    def predict(self, context, model_input, params=None):
        messages = model_input["messages"] if isinstance(model_input, dict) else model_input["messages"][0]
        return messages[-1]["content"].upper()


class Nonsense(PythonModel):
    def predict(self, context, model_input, params=None):
        return 7
