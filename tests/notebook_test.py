"""The quick start notebook improves its student, and runs from top to bottom."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "quickstart.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def before_and_after(notebook) -> dict[str, tuple[float, float]]:
    """What the cell that trains ends with."""
    (cell,) = (cell for cell in notebook.cells if "train.run(" in cell.source)
    (result,) = (o for o in cell.outputs if o.output_type == "execute_result")
    return ast.literal_eval(result.data["text/plain"])


def test_the_kept_outputs_show_a_better_student():
    notebook = read()
    found = before_and_after(notebook)
    assert found["accuracy"][1] > found["accuracy"][0] + 0.1
    assert found["avg_at_k"][1] > found["avg_at_k"][0] + 0.1
    assert found["reverse_kl"][1] < 0.6 * found["reverse_kl"][0]
    kinds = {o.output_type for cell in notebook.cells for o in cell.get("outputs", [])}
    assert "error" not in kinds
    text = NOTEBOOK.read_text()
    assert "image/png" in text and "/home/" not in text and "/root/" not in text


@pytest.mark.slow
def test_quickstart_runs(tmp_path):
    notebook = read()
    sizes = {"steps = 120": "steps = 2", "prompts = 128": "prompts = 4"}
    for full, small in sizes.items():
        (cell,) = (cell for cell in notebook.cells if full in cell.source)
        cell.source = cell.source.replace(full, small)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert (tmp_path / "runs" / "quickstart" / "summary.json").exists()
    assert before_and_after(notebook)["reverse_kl"][0] > 0
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "reverse KL 0.08" in printed
