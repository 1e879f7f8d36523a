"""A server with the OpenAI API, for tests of clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def serve(
    answer: Callable[[str], list[str] | None],
    models: tuple[str, ...] = ("some-model",),
    asked: str = "some-model",
    page: str = "",
    requests: list[dict[str, Any]] | None = None,
    retry_after: str = "0.01",
    max_words: int | None = None,
) -> Iterator[str]:
    """Serve `models` and yield the address. The answers are the texts of `answer(prompt)`; None is "too many requests".

    With the latter comes the header `retry_after`. The prompt of a chat is the text of its messages. Only the model
    `asked` answers. With a `page`, the server answers every request with it. `requests` collects what it is asked.
    Prompts of more than `max_words` are refused.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": model, "object": "model"} for model in models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if requests is not None:
                requests.append(body)
            if body["model"] != asked:
                self._send(400, {"error": {"message": f"no model {body['model']}"}})
                return
            prompt = body.get("prompt") or "\n".join(message["content"] for message in body["messages"])
            if max_words is not None and len(prompt.split()) > max_words:
                self._send(400, {"error": {"message": f"the maximum context length is {max_words} words"}})
                return
            texts = answer(prompt)
            if texts is None:
                self._send(429, {"error": {"message": "too many requests"}})
                return
            chat = self.path == "/v1/chat/completions"
            shown = texts[: body.get("n") or 1]
            choices = [
                {"index": number, "finish_reason": "stop"}
                | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
                for number, text in enumerate(shown)
            ]
            num_words = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(" ".join(shown).split())}
            kind = {"id": "1", "object": "chat.completion" if chat else "text_completion", "created": 0, "model": asked}
            usage = num_words | {"total_tokens": sum(num_words.values())}
            if body.get("stream"):
                self._stream(kind | {"object": "chat.completion.chunk"}, choices, usage)
                return
            self._send(200, kind | {"choices": choices, "usage": usage})

        def _stream(self, kind: dict[str, Any], choices: list[dict[str, Any]], usage: dict[str, int]) -> None:
            """Send a chat as events: one for each choice, and one with the usage."""
            deltas = [{"index": one["index"], "delta": one["message"], "finish_reason": "stop"} for one in choices]
            events = [kind | {"choices": [delta]} for delta in deltas] + [kind | {"choices": [], "usage": usage}]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, status: int, content: dict[str, Any]) -> None:
            data = page.encode() or json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if page else "application/json")
            if status == 429:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
