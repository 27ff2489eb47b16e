"""OmniOPD's HTTP teacher against ``transformers serve``, a real server of a package.

Offline; the model is random, small and has a tokenizer of its own. The server takes one
sample per request (``remote.per_request=1``) and no open assistant turn.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import httpx2
import jax
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import runs
from jopd.models import decoder, hf
from jopd.rollouts import generate as rollout
from jopd.rollouts import sampling
from jopd.teachers import audit, remote, transport
from jopd.teachers.remote import Prefix

NEEDED = ("torch", "fastapi", "uvicorn", "openai", "accelerate")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if not MISSING and not importlib.util.find_spec("transformers.cli.serving"):
    MISSING = ["a transformers with /v1/completions"]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"needs the extra parity for transformers serve: no {', '.join(MISSING)}",
)
PATIENCE = 600  # seconds that a process may take to the next event
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
ANSWERED = re.compile(r'"POST (\S+) HTTP/1.1" (\d+)')


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, whatever the text: not the student's tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate(["<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model directory; it says that samples are drawn, which is not the default."""
    folder = tmp_path_factory.mktemp("served") / "teacher"
    runs.make_model(folder, seed=5, tokenizer=byte_tokenizer(), max_positions=512)
    drawn = {"do_sample": True, "eos_token_id": 0, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(drawn))
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def server(folder, log, port: int):
    """The process, once it answers; killed at the end. Adds to ``log``."""
    # An empty folder of downloads: the server lists what lies there as its models.
    downloads = log.with_name("downloads")
    downloads.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    command += [str(folder), "--device=cpu", "--host=127.0.0.1", f"--port={port}"]
    with open(log, "a") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_CACHE": str(downloads), "HF_HUB_OFFLINE": "1"},
        )
    try:
        wait_for(lambda: healthy(port), process)
        yield process
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx2.TransportError:
        return False


def wait_for(happened, process, pause: float = 0.2) -> None:
    """Until ``happened()``; fails if ``process`` ends before, or after ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} before that"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(pause)


def replies(log) -> Counter:
    """How often the server answered, by status; it logs before it sends."""
    return Counter(int(status) for _, status in ANSWERED.findall(log.read_text()))


def connect(folder, port: int, **changes) -> remote.Client:
    url = f"http://127.0.0.1:{port}/v1"
    return remote.connect(url, str(folder), **{"per_request": 1} | changes)


def greedy(folder, prefixes, max_tokens: int) -> list[list[str]]:
    """What this library's decoder writes with the same weights."""
    shape, params = hf.load(folder, dtype="float32")
    tokenizer = byte_tokenizer()

    @jax.jit
    def generate(request, key):
        return rollout.generate(
            params,
            request,
            key,
            model=decoder.Decoder(shape),
            max_new_tokens=max_tokens,
            stop_ids=(0,),
            vocabulary=len(tokenizer),
            filters=sampling.Filter(temperature=0.0),
        )

    teacher = audit.local_teacher(generate, tokenizer, widths=(64,), batch_rows=4)
    read = [
        Prefix(*p[:2], tokenizer(p.prompt + p.response)["input_ids"]) for p in prefixes
    ]
    return teacher.continue_texts(read, 1, max_tokens, 0.0, [0] * len(read))


def test_continuations_of_a_served_model(served, tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.05)
    log, port = tmp_path / "log", free_port()
    prefixes = [Prefix(f"{i}+2=", f"{i}+2={i + 2};") for i in range(1, 5)]
    seeds = [0, 10, 20, 30]
    with server(served, log, port):
        # The server has one random state for all requests: in turn, seeds are kept.
        client = connect(served, port, concurrency=1)
        found = client.continue_texts(prefixes, 3, 6, 1.0, seeds)
        assert client.continue_texts(prefixes, 3, 6, 1.0, seeds) == found
        assert all(len(row) == 3 for row in found)
        assert len({text for row in found for text in row}) > 6, "samples, not copies"
        counts = client.counts()
        read = sum(len(p.prompt + p.response) for p in prefixes)
        assert counts["requests"] == 24 and counts["failures"] == 0
        assert counts["prompt_tokens"] == 2 * 3 * read
        assert 24 <= counts["completion_tokens"] <= 24 * 6
        assert replies(log) == {200: 24}
        # The model is the one of the directory: its greedy text is the decoder's.
        certain = client.continue_texts(prefixes, 1, 6, 0.0, seeds)
        assert certain == greedy(served, prefixes, 6)
        # In words, under the server's own template.
        chat = connect(served, port, api="chat")
        texts = chat.continue_texts(prefixes[:2], 2, 6, 1.0, seeds[:2])
        assert all(isinstance(text, str) for row in texts for text in row)
        asked = [len(remote.INSTRUCTION.format(**p._asdict())) for p in prefixes[:2]]
        assert chat.counts()["prompt_tokens"] == 2 * sum(asked)
        # What it cannot do ends in one error that says so.
        plural = connect(served, port, per_request=0)
        with pytest.raises(ConnectionError, match="1 choices, not 2 texts"):
            plural.continue_texts(prefixes[:1], 2, 6, 1.0, [0])
        open_turn = connect(served, port, api="chat_prefill")
        with pytest.raises(ConnectionError, match=r"422 .*continue_final_message"):
            open_turn.continue_texts(prefixes[:1], 1, 6, 1.0, [0])
        assert open_turn.counts()["retries"] == 0, "a refusal is not repeated"


@pytest.fixture
def run(models, served, tmp_path, cache):
    """``start(**overrides) -> Popen`` of the same run, and what it leaves."""
    port, log = free_port(), tmp_path / "log"
    fixed = {
        "steps": 4,
        "rollout.prompts_per_step": 4,
        "data.path": "task:arithmetic",
        "audit.teacher": "http",
        "audit.samples": 4,
        "audit.judge_first": False,  # random weights write nonsense
        "remote.url": f"http://127.0.0.1:{port}/v1",
        "remote.model": served,
        "remote.per_request": 1,
        "remote.concurrency": 2,
        "remote.cache_dir": tmp_path / "cache",
        "teacher.path": "",
        "eval.verifier": "none",
    }

    def start(**overrides):
        command = runs.command("main", "--config=configs/omniopd.py")
        command += [f"--workdir={tmp_path / 'run'}"]
        command += runs.flags(models, **fixed, **overrides)
        with open(tmp_path / "output", "a") as output:
            return subprocess.Popen(
                command,
                cwd=runs.ROOT,
                env=runs.environment(cache),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    return start, port, log, tmp_path


def paid(rows: list[dict]) -> Counter:
    """Sums of the cost counters over lines of metrics."""
    found = Counter()
    for row in rows:
        for name in row:
            if name.startswith("teacher/"):
                found[name.removeprefix("teacher/")] += row[name]
    return found


def test_a_run_whose_server_is_killed_twice(run, served):
    """The first time it ends and is run again, the second time it waits."""
    start, port, log, folder = run
    lines = lambda: runs.updates(folder / "run")
    kept = lambda: len(list((folder / "cache").rglob("*.json")))
    said = lambda: (folder / "output").read_text()

    def kill_in_update(process, found, number: int) -> None:
        """SIGKILL to the server once it has answered a part of that update."""
        wait_for(lambda: len(lines()) >= number - 1, process, 0.05)
        before = kept()
        wait_for(lambda: kept() > before, process, 0.01)
        found.send_signal(signal.SIGKILL)
        found.wait()

    with server(served, log, port) as first:
        process = start(remote__retries=0)
        kill_in_update(process, first, 2)
        assert process.wait(PATIENCE) == 1, "no answer at all to the third update"
    assert "answered none of" in said() and "run the same command again" in said()
    # The update in hand went on with the chunks that were complete.
    full, cut = lines()
    assert full["audit/dropped"] == 0 < full["audit/chunks"]
    assert cut["audit/dropped"] > 0 and cut["teacher/failures"] > 0
    assert cut["teacher/failures"] >= cut["audit/dropped"]
    assert all(row["loss"] == row["loss"] for row in (full, cut))
    answered = paid([full, cut])
    assert answered["requests"] - answered["failures"] == kept()
    assert answered["cache_hits"] == 0
    # What the dead server may have begun to send: as many as were under way.
    assert kept() <= replies(log)[200] <= kept() + 2
    lost = replies(log)[200] - kept()

    with server(served, log, port) as second:
        process = start(remote__retries=12)
        kill_in_update(process, second, 3)
        assert process.poll() is None
        with server(served, log, port):
            assert process.wait(PATIENCE) == 0, said()
    rows = lines()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # The updates of the first run were saved before it ended; the others followed.
    assert [*map(runs.plain, rows[:2])] == [*map(runs.plain, (full, cut))]
    again = paid(rows[2:])
    assert sum(row["audit/dropped"] for row in rows[2:]) == 0, "then it waited"
    assert again["retries"] > 0 and again["failures"] == 0
    # Every reply is on the disk once, and was counted once, by whichever run paid it.
    replied = again["requests"] - again["retries"]
    assert answered["requests"] - answered["failures"] + replied == kept()
    files = [json.loads(p.read_text()) for p in (folder / "cache").rglob("*.json")]
    for name in ("prompt_tokens", "completion_tokens"):
        assert answered[name] + again[name] == sum(f["usage"][name] for f in files)
    assert kept() + lost <= replies(log)[200] <= kept() + lost + 2
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 4
