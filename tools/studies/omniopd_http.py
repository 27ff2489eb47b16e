"""OmniOPD with the teacher in this process and behind a server."""

from jopd.setup.regimes import REGIMES

TITLE = "OmniOPD: a local teacher and the same one behind HTTP"
ABOUT = """
`configs/omniopd.py` for 20 updates of 8 rollouts, audited by the bundled teacher, once
in the run and once as text from a real server (transformers 5.23.0) on this machine:

    cp -r jopd/assets/teacher out/teacher
    echo '{"do_sample": true, "eos_token_id": 1, "pad_token_id": 0}' \\
        > out/teacher/generation_config.json
    HF_HUB_CACHE=out/empty HF_HUB_OFFLINE=1 \\
        transformers serve out/teacher --device=cpu --port=8123

It answers one sample per request, 192 requests per update here. Both teachers draw
their own samples, so runs agree on average only.
"""
SEEDS = (0, 1)
COMMON = REGIMES["digits"].keys | {
    "steps": 20,
    "rollout.prompts_per_step": 2,
    "optimizer.learning_rate": 1e-4,
    "optimizer.warmup": 5,
    # What the config had when this was measured.
    "audit.similarity": "ned",
    "audit.chunk_tokens": 6,
    "loss.chunks.weights.rate.baseline": "none",
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
HTTP = {
    "audit.teacher": "http",
    "remote.url": "http://127.0.0.1:8123/v1",
    "remote.model": "out/teacher",
    "remote.per_request": 1,
}
ARMS = {
    "local": {"config": "omniopd", "overrides": {}},
    "over HTTP": {"config": "omniopd", "overrides": HTTP},
}
METRICS = {
    "accuracy": "accuracy, %",
    "avg_at_k": "avg@4, %",
    "reverse_kl": "reverse KL",
    "mean audit/similarity": "similarity",
    "mean audit/chunks": "chunks",
    "max audit/dropped": "dropped, most",
    "mean teacher/completion_tokens": "teacher tokens written",
    "mean speed/seconds_audit": "seconds of audit",
    "wall_seconds": "seconds",
}
FOUND = """
The text of a server does what the local teacher does: similarities of 0.699 and 0.700,
1,098 tokens written per update by either, no chunk dropped. Its audit takes 24 times as
long: 192 requests of six tokens each, to a server that gives one sample per request. In
20 updates neither teaches anything; accuracy falls with both, from 47 %.
"""
