# Fourth part: chat models, as MLflow's ChatModel, ChatAgent and ResponsesAgent, and whatever else answers messages.
# Asked in OpenAI's chat form or, for agents of the Responses form, in that; answers leave here in the same form,
# whole or as the events of a stream. What an agent asked itself and answered itself stays inside.


class NoChat(Exception):
    """The model's answer is not one to a chat."""


class Refused(Exception):
    """The model's interface does not take the messages; its own code was not called."""


def plain(value):
    """Without members that are null, and lists of text parts as one text: what the models' types take."""
    if isinstance(value, dict):
        value = {name: plain(part) for name, part in value.items() if part is not None}
        parts = value.get("content")
        texts = ("text", "input_text")
        if isinstance(parts, list) and parts and all(isinstance(p, dict) and p.get("type") in texts for p in parts):
            value["content"] = "\n".join(part.get("text", "") for part in parts)
        return value
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value


def from_agent(answer):
    """A ChatAgent's messages as one completion. Calls that it answered itself are its own business."""
    messages = [message for message in answer["messages"] if isinstance(message, dict)]
    answered = {message.get("tool_call_id") for message in messages if message.get("role") == "tool"}
    said = [message for message in messages if message.get("role") != "tool"]
    text = "\n\n".join(message["content"] for message in said if message.get("content"))
    calls = [call for message in said for call in message.get("tool_calls") or [] if call.get("id") not in answered]
    message = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    reason = answer.get("finish_reason") or ("tool_calls" if calls else "stop")
    whole = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    if answer.get("usage"):
        whole["usage"] = answer["usage"]
    return whole


def whole(answer, responses):
    """The answer in the form that was asked in."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, str) and not responses:
        answer = {"messages": [{"role": "assistant", "content": answer}]}
    if not isinstance(answer, dict):
        raise NoChat
    if responses:
        if not isinstance(answer.get("output"), list):
            raise NoChat
        return dict(answer, status=answer.get("status") or "completed", output=unanswered(answer["output"]))
    if isinstance(answer.get("messages"), list):
        return from_agent(answer)
    if not isinstance(answer.get("choices"), list):
        raise NoChat
    return answer


def unanswered(items):
    """The items of a response without the calls that the agent answered itself."""
    kind = lambda item: item.get("type") if isinstance(item, dict) else None
    answered = {item.get("call_id") for item in items if kind(item) == "function_call_output"}
    inner = lambda item: kind(item) == "function_call" and item.get("call_id") in answered
    return [item for item in items if kind(item) != "function_call_output" and not inner(item)]


class Chunks:
    """A stream of completion chunks, or of a ChatAgent's deltas, as chunks of one completion."""

    def __init__(self):
        self.begun, self.finished, self.message, self.said = False, False, None, False
        # Calls by their ids, in order; an agent's wait until it is sure that it does not answer them itself.
        self.calls, self.held = {}, {}

    def push(self, item):
        if isinstance(item, str):
            return [self.chunk({"role": "assistant", "content": item})]
        if not isinstance(item, dict):
            raise NoChat
        if isinstance(item.get("delta"), dict):
            return self.agent(item)
        if not isinstance(item.get("choices"), list):
            raise NoChat
        for choice in item["choices"]:
            self.finished = self.finished or bool(choice.get("finish_reason"))
            for call in (choice.get("delta") or {}).get("tool_calls") or []:
                call.setdefault("index", self.calls.setdefault(call.get("id"), len(self.calls)))
        return [item]

    def agent(self, item):
        delta = item["delta"]
        if delta.get("role") == "tool":
            self.held.pop(delta.get("tool_call_id"), None)
            return []
        for call in delta.get("tool_calls") or []:
            self.held[call.get("id")] = call
        out, text = [], delta.get("content")
        if text:
            if self.said and delta.get("id") != self.message:
                text = "\n\n" + text
            self.message, self.said = delta.get("id"), True
            out.append(self.chunk({"role": "assistant", "content": text}))
        if item.get("finish_reason") and not self.held:
            self.finished = True
            out.append(self.chunk({}, item["finish_reason"]))
        if item.get("usage"):
            out.append({"object": "chat.completion.chunk", "choices": [], "usage": item["usage"]})
        return out

    def chunk(self, delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"object": "chat.completion.chunk", "choices": [choice]}

    def end(self):
        out = []
        if self.held:
            calls = [dict(call, index=index) for index, call in enumerate(self.held.values())]
            out.append(self.chunk({"role": "assistant", "tool_calls": calls}))
        if not self.finished:
            out.append(self.chunk({}, "tool_calls" if self.held or self.calls else "stop"))
        return out + ["[DONE]"]


class Events:
    """A stream of a ResponsesAgent's events, completed: agents may send finished items only, and no end."""

    def __init__(self):
        self.places, self.streamed, self.held, self.last = {}, set(), {}, None

    def push(self, event):
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise NoChat
        kind, item = event["type"], event.get("item")
        item = item if isinstance(item, dict) else {}
        name = event.get("item_id") or item.get("id")
        if kind == "response.output_item.done":
            event = dict(event, output_index=self.place(name))
            if item.get("type") == "function_call":
                self.held[item.get("call_id")] = event
                return []
            if item.get("type") == "function_call_output":
                self.held.pop(item.get("call_id"), None)
                return []
            return self.deltas(name, item) + [event]
        if kind in ("response.completed", "response.incomplete"):
            self.last = event
            return []
        own = kind == "response.output_item.added" and item.get("type") == "function_call"
        if own or kind.startswith("response.function_call_arguments"):
            # The finished call says it all.
            return []
        if kind == "response.output_text.delta":
            self.streamed.add(name)
        if name is not None:
            event = dict(event, output_index=self.place(name))
        return [event]

    def place(self, name):
        return self.places.setdefault(name, len(self.places))

    def deltas(self, name, item):
        """The text of a finished message that was not streamed."""
        if item.get("type") != "message" or name in self.streamed:
            return []
        out = []
        for index, part in enumerate(item.get("content") or []):
            if isinstance(part, dict) and part.get("type") == "output_text":
                delta = {"type": "response.output_text.delta", "item_id": name, "delta": part.get("text", "")}
                out.append(dict(delta, output_index=self.place(name), content_index=index))
        return out

    def end(self):
        done = self.last or {"type": "response.completed", "response": {"status": "completed"}}
        return [*self.held.values(), done]


class Chat:
    """A model that is asked for chats. `form` says how: `messages` or `responses` by MLflow's classes for it, or
    `completion` where the model only says that it chats."""

    def __init__(self, model, form, problem):
        self.model, self.responses, self.problem = model, form == "responses", problem
        known = form != "completion"
        self.convert = getattr(getattr(model, "_model_impl", None), "_convert_input", None) if known else None
        self.streams = self.has_stream()
        try:
            # Traces would go to a store in the private folder, which nobody reads.
            import mlflow

            mlflow.tracing.disable()
        except Exception:
            pass

    def has_stream(self):
        if getattr(self.model, "_predict_stream_fn", None) is None:
            return False
        try:
            own = self.model.get_raw_model()
        except Exception:
            return False
        maker = next((kind for kind in type(own).__mro__ if "predict_stream" in vars(kind)), None)
        # The base classes' own raise.
        return maker is not None and not maker.__module__.startswith("mlflow.")

    def read(self, body):
        body = plain(json.loads(body))
        if self.responses:
            items = body.get("input")
            items = [{"role": "user", "content": items}] if isinstance(items, str) else items or []
            # Agents read their input; few look at the instructions.
            system = body.pop("instructions", None)
            body["input"] = [{"role": "system", "content": system}, *items] if system else items
        if self.convert is not None:
            try:
                self.convert(dict(body))
            except Exception as problem:
                raise Refused(type(problem).__name__) from problem
        return body

    def ask(self, wire, request, payload):
        """`u8 stream | body`. Answers RESULT_JSON, or ITEMs and DONE; ERROR in place of either."""
        stream = payload[0] == 1 and self.streams
        try:
            body = self.read(bytes(payload[1:]))
            if stream:
                self.stream(wire, request, self.model.predict_stream(body))
            else:
                answer = whole(self.model.predict(body), self.responses)
                wire.send(RESULT_JSON, request, json.dumps(answer).encode())
        except Exception as problem:
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            wire.send(ERROR, request, json.dumps(self.detail(problem)).encode())

    def detail(self, problem):
        if isinstance(problem, NoChat):
            return {"class": "model", "status": 500, "type": "its answer is none to a chat"}
        if isinstance(problem, Refused):
            return {"class": "user", "status": 400, "type": str(problem)}
        own = isinstance(problem, self.problem) and problem.get_http_status_code() == 400
        return {"class": "user" if own else "model", "status": 400 if own else 500, "type": type(problem).__name__}

    def stream(self, wire, request, items):
        import select

        form = Events() if self.responses else Chunks()
        done = object()
        while True:
            ready, _, _ = select.select([wire.socket], [], [], 0)
            if ready and wire.receive()[0] == CANCEL:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
                break
            item = next(items, done)
            last = item is done
            for event in form.end() if last else form.push(item):
                text = event if isinstance(event, str) else json.dumps(event)
                wire.send(ITEM, request, b"data: " + text.encode() + b"\n\n")
            if last:
                break
        wire.send(DONE, request)
