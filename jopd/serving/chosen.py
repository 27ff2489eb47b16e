"""Log-probabilities of chosen tokens: vLLM's ``/inference/v1/generate``.

    {"token_ids": [...], "sampling_params": {"prompt_logprob_start": n,
     "prompt_logprob_token_ids": [[...], ...]}}

One row of ids for each token behind number n. The answer is a matrix, float32 as .npy
in base64: row i is about the place of token n + 1 + i, columns as asked.
"""

import base64
import io
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jopd.serving import protocol
from jopd.setup.model import Model
from jopd.teachers.likely import Scores


class Chosen(NamedTuple):
    """``ids`` i32[rows, K], asked about at the tokens behind number ``start`` of
    ``tokens``; -1: about none."""

    tokens: list[int]
    start: int
    ids: np.ndarray


def request(model: Model, name: str, body: Any) -> Chosen:
    """A request of ``/inference/v1/generate``, as vLLM has it; nothing is written.

    Raises:
      ValueError: names the field and what is possible. Unknown: another model.
    """
    if not isinstance(body, Mapping):
        raise ValueError("the body must be a JSON object")
    protocol.check_fields(body, {"model", "token_ids", "sampling_params", "request_id"})
    if body.get("model", name) != name:
        raise protocol.Unknown(
            f"the model {body['model']!r} is not here; this is {name!r}"
        )
    params = body.get("sampling_params")
    if not isinstance(params, Mapping):
        raise ValueError("sampling_params must be an object")
    asked = {"prompt_logprob_token_ids", "prompt_logprob_start"}
    protocol.check_fields(
        params, asked | {"max_tokens", "temperature", "skip_special_tokens"}
    )
    protocol.number(params, "max_tokens", 0, 0, 0, int)
    tokens = body.get("token_ids")
    if not protocol.are_ids(tokens):
        raise ValueError(f"token_ids={tokens!r:.80} must be a list of token ids")
    protocol.check_prompts(model, [tokens], 0)
    start = protocol.number(params, "prompt_logprob_start", 0, 0, len(tokens) - 1, int)
    rows, size = params.get("prompt_logprob_token_ids"), model.config.vocab_size
    if not isinstance(rows, list) or not all(protocol.are_ids(row) for row in rows):
        raise ValueError("prompt_logprob_token_ids must be a list of lists of ids")
    if len(rows) != len(tokens) - 1 - start:
        raise ValueError(
            f"prompt_logprob_token_ids has {len(rows)} rows, and {len(tokens)} tokens "
            f"from {start} on have {len(tokens) - 1 - start}"
        )
    widest = max(map(len, rows), default=0)
    if widest > protocol.MOST_LIKELY:
        raise ValueError(f"a row has {widest} ids; at most {protocol.MOST_LIKELY}")
    named = [i for row in rows for i in row]
    if named and not -1 <= min(named) <= max(named) < size:
        raise ValueError(
            f"ids lie in {min(named)} to {max(named)}, the model's in 0 to {size - 1}"
        )
    ids = np.full((len(rows), widest), -1, np.int32)
    for row, given in zip(ids, rows):
        row[: len(given)] = given
    return Chosen(tokens, start, ids)


def answer(asked: Chosen, read: Scores | None) -> dict[str, Any]:
    """``read`` is of all tokens but the first, at the ids behind ``start``."""
    found = np.full(asked.ids.shape, -np.inf, np.float32)
    if read is not None:
        found = np.where(asked.ids < 0, found, read.likely[asked.start :])
    content = io.BytesIO()
    np.save(content, found.astype(np.float32))
    count = len(asked.tokens)
    return {
        "request_id": uuid.uuid4().hex,
        "choices": [{"index": 0, "token_ids": [], "finish_reason": "length"}],
        "prompt_token_id_logprobs": base64.b64encode(content.getvalue()).decode(),
        "usage": {
            "prompt_tokens": count,
            "completion_tokens": 0,
            "total_tokens": count,
        },
    }
