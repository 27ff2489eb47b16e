"""A small OpenAI-compatible server for tests; runs a model of the project for real.

    python tests/openai_server.py --port=0 --log=FILE --model=DIR
    python tests/openai_server.py --port=0 --log=FILE --canned=" text" --refuse=2

Prints ``listening PORT`` once it answers. Every reply that was sent is a line of the
log: what it replied and the request. FILE.begun has such a line before it is sent.
``--canned`` needs no model.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = threading.Lock()


@contextlib.contextmanager
def server(log, *words: str, port: int = 0):
    """A server process; yields its port and the process, kills it at the end."""
    command = [sys.executable, __file__]
    process = subprocess.Popen(
        [*command, f"--log={log}", f"--port={port}", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        words = process.stdout.readline().split()
        assert words[:1] == ["listening"], "the server did not start"
        yield int(words[1]), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def writer(path: str):
    """``(prompt, n, max_tokens, temperature, seed) -> (texts, tokens)`` of a model."""
    import functools

    import jax

    from jopd.models import decoder, hf
    from jopd.rollouts import generate as rollout
    from jopd.setup import inputs
    from jopd.teachers import audit
    from jopd.teachers.remote import Prefix

    path = inputs.model_path(path)
    shape, params = hf.load(path, dtype="float32")
    tokenizer = inputs.load_tokenizer(path)
    generate = functools.partial(
        rollout.generate,
        model=decoder.Decoder(shape),
        max_new_tokens=8,
        stop_ids=(tokenizer.eos_token_id,),
        vocabulary=min(shape.vocab_size, len(tokenizer)),
    )
    teacher = audit.local_teacher(
        functools.partial(jax.jit(generate), params),
        tokenizer,
        widths=(64,),
        batch_rows=4,
    )

    def write(prompt, n, max_tokens, temperature, seed):
        assert temperature == 1.0 and n <= 4
        tokens = tokenizer(prompt)["input_ids"]
        with LOCK:
            (texts,) = teacher.continue_texts(
                [Prefix(prompt, "", tokens)], n, max_tokens, temperature, [seed]
            )
        return texts, len(tokens)

    return write


def usage_of(prompt_tokens: int, texts: list[str]) -> dict:
    written = sum(len(text) for text in texts)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": written}


class Handler(BaseHTTPRequestHandler):
    """One model; misbehaves as the options say."""

    protocol_version = "HTTP/1.1"
    options, write, count = None, None, 0

    def log_message(self, *_):
        pass

    def send(self, status: int, text: str, **headers) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def note(self, ending: str = "", **fields) -> None:
        line = json.dumps({"time": time.time(), **fields})
        with LOCK, open(self.options.log + ending, "a") as file:
            file.write(line + "\n")

    def do_GET(self):
        if not self.known():
            return self.send(401, '{"error": "no such key"}')
        if self.path == "/v1/models":
            return self.send(self.options.list_status, self.options.list)
        return self.send(404, "nothing here")

    def known(self) -> bool:
        asked = self.options.basic or f"Bearer {self.options.key}"
        free = not (self.options.key or self.options.basic)
        return free or self.headers["Authorization"] == asked

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            Handler.count += 1
            number = Handler.count
        options = self.options
        if number <= options.refuse:
            self.note(status=429, body=body)
            after = options.retry_after
            headers = {"Retry_After": after} if after else {}
            return self.send(429, "slow down", **headers)
        if number <= options.refuse + options.broken:
            self.note(status=503, body=body)
            return self.send(503, "busy")
        time.sleep(options.slow)
        if options.garbage and number % options.garbage == 0:
            self.note(status=200, body=body, garbage=True)
            headers = {"Content_Encoding": "gzip"} if options.garbled else {}
            return self.send(200, options.garbage_text, **headers)
        prompt = body.get("prompt")
        if prompt is None:
            prompt = "".join(turn["content"] for turn in body["messages"])
        n = body.get("n", 1)
        n = min(n, options.most) if options.most else n
        if options.canned is not None:
            texts, read = [options.canned] * n, len(prompt)
        else:
            texts, read = self.write(
                prompt, n, body["max_tokens"], body["temperature"], body["seed"]
            )
        if self.path.endswith("chat/completions"):
            choices = [{"message": {"content": text}} for text in texts]
        else:
            choices = [{"text": text} for text in texts]
        usage = json.loads(options.usage) if options.usage else usage_of(read, texts)
        # A server that is killed may have sent what it could no longer log as sent.
        self.note(".begun", status=200, body=body, usage=usage)
        self.send(200, json.dumps({"choices": choices, "usage": usage}))
        self.note(status=200, body=body, usage=usage)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--canned", default=None)
    parser.add_argument("--key", default="")
    parser.add_argument("--basic", default="")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--refuse", type=int, default=0)
    parser.add_argument("--retry-after", default="0.3")
    parser.add_argument("--broken", type=int, default=0)
    parser.add_argument("--garbage", type=int, default=0)
    parser.add_argument("--garbage-text", default="<html>")
    parser.add_argument("--garbled", action="store_true")
    parser.add_argument("--usage", default="")
    parser.add_argument("--list", default='{"data": [{"id": "tiny"}]}')
    parser.add_argument("--list-status", type=int, default=200)
    parser.add_argument("--most", type=int, default=0)
    Handler.options = parser.parse_args()
    if Handler.options.model:
        Handler.write = staticmethod(writer(Handler.options.model))
        Handler.write("1+2=", 4, 8, 1.0, 0)  # compiled before it listens
    server = ThreadingHTTPServer(("127.0.0.1", Handler.options.port), Handler)
    print(f"listening {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
