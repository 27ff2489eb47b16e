"""A model behind OpenAI's protocol, with log-probabilities of prompts.

    jopd serve --model=DIR --port=8000

Answers /v1/models, /v1/completions, /v1/chat/completions, scores of chosen tokens at
/inference/v1/generate, and /health. As a teacher of
another machine's run: docs/teachers.md, "Behind a server".
"""

import contextlib
import os
import socket
from pathlib import Path

from absl import app, flags

from jopd import commandline

flags.DEFINE_string("model", None, commandline.MODEL)
flags.DEFINE_string(*commandline.CHECKPOINT)
flags.DEFINE_string("name", "", "As requests call it; empty: the end of its path.")
what = "Address that it listens at; 0.0.0.0: all of this machine's."
flags.DEFINE_string("host", "127.0.0.1", what)
flags.DEFINE_integer("port", 8000, "0: a free one.", lower_bound=0, upper_bound=65535)
what = "Environment variable with the key that requests must send; empty: none."
flags.DEFINE_string("key_env", "", what)
commandline.define_dtype()


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.setup import model
    from jopd.training import kept

    f = flags.FLAGS
    with (
        contextlib.suppress(KeyboardInterrupt),  # how a server is ended
        commandline.one_error(),
        kept.as_model(f.model, f.checkpoint) as path,
    ):
        uvicorn, serving = needed()
        key = key_of(f.key_env)
        served = model.load(path, dtype=f.dtype)
        name = f.name or Path(f.model).name or f.model
        listening = bound(f.host, f.port)
        served.params  # noqa: B018  read now, not at the first request
        url = "http://{}:{}/v1".format(*listening.getsockname()[:2])
        print(f"{name} at {url}", flush=True)
        config = uvicorn.Config(serving.app(served, name, key=key), log_level="warning")
        uvicorn.Server(config).run(sockets=[listening])


def needed():
    """Raises ImportError where the extra is missing: says how to get it."""
    try:
        import uvicorn

        from jopd.serving import app as serving
    except ModuleNotFoundError as error:
        raise ImportError(
            f"jopd serve needs {error.name}; pip install 'jopd[serve]'"
        ) from error
    return uvicorn, serving


def key_of(name: str) -> str:
    if name and not os.environ.get(name):
        raise ValueError(
            f"--key_env={name}: no such environment variable, or an empty one; export "
            "it, or leave the flag out for a server without a key"
        )
    return os.environ[name] if name else ""


def bound(host: str, port: int) -> socket.socket:
    """Raises OSError that names the address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen()  # who asks before the model is ready waits
    except OSError as error:
        raise OSError(
            f"--host={host} --port={port} cannot be listened at ({error.strerror}); "
            "choose another"
        ) from error
    return found


if __name__ == "__main__":
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=commandline.parse_flags)
