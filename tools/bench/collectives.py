"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_SENT = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply|calls|called_computations=\{)=?%?([\w.\-]+)")
_BODY = re.compile(r" while\(.*body=%?([\w.\-]+)")


class Sent(NamedTuple):
    """One collective: ``depth`` loops lie around it; ``arrays`` are its results, a
    dtype and a shape each, on one device."""

    kind: str
    depth: int
    arrays: tuple[tuple[str, tuple[int, ...]], ...]

    def size(self) -> int:
        """Bytes of the results."""
        return sum(BYTES.get(dtype, 8) * math.prod(s) for dtype, s in self.arrays)


def sent(text: str) -> list[Sent]:
    """All collectives of ``compiled.as_text()``."""
    lines = _computations(text)
    depths = {name: 0 for name in lines}
    for _ in lines:  # until nothing moves: calls are no deeper than they are many
        before = dict(depths)
        for name, body in lines.items():
            for line in body:
                deeper = _BODY.search(line)
                for called in _CALLED.findall(line):
                    inner = depths[name] + bool(deeper and deeper[1] == called)
                    depths[called] = max(depths.get(called, 0), inner)
        if depths == before:
            break
    return [
        Sent(found[2], depths[name], _arrays(found[1]))
        for name, body in lines.items()
        for line in body
        if (found := _SENT.search(line))
    ]


def totals(found: list[Sent]) -> str:
    """MiB in one turn of all loops together, by kind, and of what is sent once."""
    sums = Counter()
    for one in found:
        sums[("in loops" if one.depth else "once"), one.kind] += one.size()
    said = [f"{k} {n / 2**20:,.1f} MiB {w}" for (w, k), n in sorted(sums.items()) if n]
    return ", ".join(said)


def table(found: list[Sent]) -> str:
    """A line for every kind, depth and shape, how often it occurs, and its MiB."""
    rows = Counter(found)
    lines = [
        "| loops around | kind | arrays | times | MiB each |",
        "|---|---|---|---|---|",
    ]
    for one, times in sorted(rows.items(), key=lambda x: (x[0].depth, -x[0].size())):
        arrays = ", ".join(f"{d}{list(s)}" for d, s in one.arrays)
        lines.append(
            f"| {one.depth} | {one.kind} | {arrays:.120} | {times} | "
            f"{one.size() / 2**20:,.2f} |"
        )
    return "\n".join(lines)


def _computations(text: str) -> dict[str, list[str]]:
    found, name = {}, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            found[name] = []
        elif line.startswith(" ") and name:
            found[name].append(line)
    return found


def _arrays(types: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(
        (dtype, tuple(int(n) for n in shape.split(",") if n))
        for dtype, shape in _ARRAY.findall(types)
    )
