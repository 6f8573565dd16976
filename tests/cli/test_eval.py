"""`eval`: perplexity as defined, against transformers' logits and SciPy; settings side by side; mistakes first."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from cli_helpers import interrupt_at, short, unopened
from gguf_writer import write_gguf
from smollm2_texts import PROMPTS
from tokenizers import Tokenizer

from tinyinfer import LLM, cli
from tinyinfer.cli import console, main
from tinyinfer.cli.arguments import open_model
from tinyinfer.cli.eval import each_setting
from tinyinfer.errors import SwitchError

__all__ = ["short"]  # fixture

TEXT = "The rain in the spring\nis a thing of the hills: caf\u00e9s, <|im_end|> rivers, and an \U0001f600.\n" * 2


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A file with TEXT, one of its line ends as another system writes it."""
    (tmp_path / "text.txt").write_bytes(TEXT.replace("spring\n", "spring\r\n", 1).encode())
    return str(tmp_path / "text.txt")


def evaluated(capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    """The JSON lines of a run."""
    assert main(["eval", *flags, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def nll_by_hand(llm: LLM, tokens: list[int], window: int, beginning: Sequence[int] = (0,)) -> tuple[float, int]:
    """Mean negative log-likelihood and tokens scored, window by window, token by token.

    beginning: what stands before each window; the goldens' tokenizer puts <|bos|>, id 0.
    """
    scores = []
    start = 0
    while start + 1 < len(tokens):
        piece = tokens[start : start + window + 1]
        logits = llm.logits([*beginning, *piece[:-1]])[len(beginning) :]
        logprobs = scipy.special.log_softmax(logits.astype(np.float64), axis=1)
        scores += [-logprobs[i, token] for i, token in enumerate(piece[1:])]
        start += window
    return float(np.mean(scores)), len(scores)


@pytest.mark.parametrize("window", [1, 7, 16, 127])
def test_a_text_is_tokenized_whole_and_scored_in_windows(window, short, text, capsys):
    """Catches: bug B5, a beginning token that is scored, CRs scored, the last newline or a special token lost."""
    tokens = Tokenizer.from_file(f"{short}/tokenizer.json").encode(TEXT, add_special_tokens=False).ids
    nll, scored = nll_by_hand(LLM(short), tokens, window)
    [found] = evaluated(capsys, "-m", short, "--text", text, "--window", str(window))
    assert found["tokens"] == scored == len(tokens) - 1
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nll), rel=1e-4)
    begun = -(-scored // window)
    assert found["ledger"]["tokens_computed"] == scored + begun, "no row is computed of which nothing is asked"


@pytest.mark.parametrize(("name", "on", "off"), [("llama", 894.259166, 932.870977), ("gemma3", 384.100015, 385.780953)])
def test_the_beginning_token_stands_before_each_window(name, on, off, golden_folder, text, tmp_path, capsys):
    """Catches bug B5: perplexity of a text that begins as no text of the model's training.

    The values are of transformers 5.23, with and without <|bos|> before each window of 32 tokens and the same tokens
    scored. llama.cpp (llama-cpp-python 0.3.36) finds the same on the GGUF file of llama (894.2592, 932.8709), and 0.13%
    less on that of gemma3 (383.6109).
    """
    source = write_gguf(name, tmp_path / "model.gguf")
    for model in (str(golden_folder(name)), str(source)):
        for bos, perplexity in (("on", on), ("off", off)):
            [found] = evaluated(capsys, "-m", model, "--text", text, "--window", "32", "--bos", bos)
            assert (found["tokens"], found["bos"]) == (119, bos == "on")
            assert found["perplexity"] == pytest.approx(perplexity, rel=2e-6)


def test_a_tokenizer_that_puts_no_beginning_token_is_scored_without_one(short, text, tmp_path, capsys):
    """To the last bit as with --bos off, and the JSON line says what was done, not what was asked for."""
    for file in Path(short).iterdir():
        (tmp_path / file.name).symlink_to(file)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    Path(tmp_path / "long.txt").write_text(TEXT * 2)
    flags = ("--text", text, "--window", "128", "--calibration", str(tmp_path / "long.txt"), "--compare", "int4:gptq")
    for plain, off in zip(
        evaluated(capsys, "-m", str(tmp_path), *flags), evaluated(capsys, "-m", short, *flags, "--bos", "off"),
        strict=True,
    ):  # fmt: skip
        assert (plain["bos"], plain["nll"], plain["tokens"]) == (False, off["nll"], off["tokens"])


def test_calibration_begins_as_scoring_does(short, text, tmp_path, capsys):
    """Catches --bos off that quantizes by windows with a beginning token, and a setting without text that is refused.

    --calibration-bos off alone compares what that token does to the weights.
    """
    tokens = Tokenizer.from_file(f"{short}/tokenizer.json").encode(TEXT, add_special_tokens=False).ids
    read = tmp_path / "long.txt"
    read.write_text(TEXT * 2)
    flags = ("-m", short, "--text", text, "--window", "64", "--calibration", str(read))
    cases = {"": (True, [0]), "--bos off": (False, []), "--calibration-bos off": (False, [0])}
    for words, (calibration_bos, beginning) in cases.items():
        plain, gptq = evaluated(capsys, *flags, "--compare", "int4,int4:gptq", *words.split())
        assert (plain["engine"]["calibration_bos"], gptq["engine"]["calibration_bos"]) == (True, calibration_bos)
        switches = {"quantize_method": "gptq", "calibration": str(read), "calibration_bos": calibration_bos}
        llm = LLM(short, quantize="int4", **switches)
        assert gptq["nll"] == pytest.approx(nll_by_hand(llm, tokens, 64, beginning)[0], rel=1e-6)
        if words == "--bos off":
            [alone] = evaluated(capsys, *flags, "--quantize", "int4", "--quantize-method", "gptq", *words.split())
            assert (alone["nll"], alone["bos"]) == (gptq["nll"], False)


def test_max_tokens_keeps_the_beginning(short, text, capsys):
    """As many tokens of the whole text's, not the tokens of some shorter text."""
    tokens = Tokenizer.from_file(f"{short}/tokenizer.json").encode(TEXT, add_special_tokens=False).ids[:20]
    [found] = evaluated(capsys, "-m", short, "--text", text, "--window", "8", "--max-tokens", "20")
    assert found["tokens"] == 19
    assert found["nll"] == pytest.approx(nll_by_hand(LLM(short), tokens, 8)[0], rel=1e-5)


def test_without_a_cache_the_perplexity_is_the_same(short, text, capsys):
    """kv_cache=none cannot score in pieces."""
    flags = ("-m", short, "--text", text, "--window", "32")
    [cached], [none] = evaluated(capsys, *flags), evaluated(capsys, *flags, "--kv-cache", "none")
    assert none["engine"]["kv_cache"] == "none"
    assert none["nll"] == pytest.approx(cached["nll"], rel=1e-6)


def test_settings_side_by_side_are_those_one_by_one(short, text, capsys):
    """One line each, in the order asked for; half precision halves the bytes of the matrices."""
    flags = ("-m", short, "--text", text, "--window", "16")
    lines = evaluated(capsys, *flags, "--compare", "bfloat16,float32,float16")
    assert [line["setting"] for line in lines] == ["bfloat16", "float32", "float16"]
    for line in lines:
        [alone] = evaluated(capsys, *flags, "--dtype", line["setting"])
        assert (line["nll"], line["weight_bytes"]) == (alone["nll"], alone["weight_bytes"])
        assert line["engine"]["dtype"] == line["setting"]
    half, full, _ = lines
    assert half["weight_bytes"] == LLM(short, dtype="bfloat16").model.nbytes < 0.55 * full["weight_bytes"]
    assert half["nll"] != full["nll"] == pytest.approx(half["nll"], rel=0.01)


@pytest.mark.parametrize("asked", ["float32,bfloat16", "bfloat16"])
def test_the_table_compares_with_the_float_model(asked, short, text, capsys):
    """It is in the table whether it was asked for or not, once."""
    flags = ["-m", short, "--text", text, "--window", "16", "--compare"]
    full, half = evaluated(capsys, *flags, "float32,bfloat16")
    assert main(["eval", *flags, asked]) == 0
    head, first, second, empty, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["perplexity", "change", "KL", "top-1", "bits", "weights", "ratio", "seconds"]
    assert first.split()[:6] == ["float32", f"{full['perplexity']:.4f}", "+0.000%", "0.0000", "100.00%", "32"]
    assert second.split()[:6] == [
        "bfloat16", f"{half['perplexity']:.4f}", f"{half['perplexity'] / full['perplexity'] - 1:+.3%}",
        f"{half['kl_divergence']:.4f}", f"{half['top1_agreement']:.2%}", "16",
    ]  # fmt: skip
    assert f"{half['weight_bytes'] / full['weight_bytes']:.3f}" in second.split()
    assert empty == ""


def test_the_distance_from_the_float_model_by_hand(short, text, capsys):
    """KL divergence and agreement out of both models' logits, window by window, by SciPy in float64."""
    flags = ("-m", short, "--text", text, "--window", "32", "--compare", "int3,float32,int3-g64:hqq")
    records = evaluated(capsys, *flags)
    tokens = Tokenizer.from_file(f"{short}/tokenizer.json").encode(TEXT, add_special_tokens=False).ids
    full = LLM(short)
    for record, switches in zip(records, [{}, None, {"group_size": 64, "quantize_method": "hqq"}], strict=True):
        llm = full if switches is None else LLM(short, quantize="int3", **switches)
        divergence, same = [], []
        for start in range(0, len(tokens) - 1, 32):
            piece = tokens[start : start + 33][:-1]
            expected, found = (model.logits([0, *piece])[1:].astype(np.float64) for model in (full, llm))
            p, q = scipy.special.softmax(expected, axis=1), scipy.special.softmax(found, axis=1)
            divergence += scipy.special.rel_entr(p, q).sum(axis=1).tolist()
            same += (expected.argmax(axis=1) == found.argmax(axis=1)).tolist()
        assert record["kl_divergence"] == pytest.approx(np.mean(divergence), rel=1e-4, abs=1e-9)
        assert record["top1_agreement"] == pytest.approx(np.mean(same), abs=1e-12)
    assert records[0]["kl_divergence"] > 0.01 > records[1]["kl_divergence"] == 0


def test_bits_per_weight_are_those_of_the_layers_matrices(short, text, capsys):
    """3 bits and a float16 step and minimum for 32 inputs are 4; of 8 symmetric bits and a step 8.5; padding is paid.

    The golden's 60 inputs make a group of 32 and one of 28, 116 and 126 hidden ones four: counted from the matrices.
    """
    flags = ("-m", short, "--text", text, "--window", "64", "--compare", "int3,int8,float16")
    for record, bits, scales in zip(evaluated(capsys, *flags), (3, 8, 16), (4, 2, 0), strict=True):
        held = numbers = 0
        for layer in LLM(short).model.layers:
            for matrix in (layer.mixer.qkv, layer.mixer.o, layer.mlp.gate_up, layer.mlp.down):
                n, m = matrix.weight.shape
                lanes = -(-n // 64) * 64 if scales else n
                held += lanes * m * bits // 8 + lanes * -(-m // 32) * scales
                numbers += n * m
        assert record["bits_per_weight"] == pytest.approx(8 * held / numbers)


def test_calibration_serves_those_that_look_at_text_and_disturbs_no_other(short, text, capsys):
    """One --calibration for a table in which float and rounded settings are, too."""
    flags = ("-m", short, "--text", text, "--window", "32", "--calibration", text)
    for record in evaluated(capsys, *flags, "--compare", "float32,int4"):
        assert record["engine"]["calibration"] is None
    parsed = cli.parse(["eval", *flags, "--compare", "int4,int4:gptq,w8a8"])
    found = each_setting(parsed)
    assert [one.calibration for one in found.values()] == [None, text, text]


def test_one_setting_in_a_sentence(short, text, capsys):
    flags = ["-m", short, "--text", text, "--window", "16"]
    [found] = evaluated(capsys, *flags)
    assert main(["eval", *flags]) == 0
    out = capsys.readouterr().out
    assert f"perplexity {found['perplexity']:.4f}" in out
    assert f"{found['tokens']} tokens in windows of 16 after the beginning token, " in out
    assert main(["eval", *flags, "--bos", "off"]) == 0
    assert f"{found['tokens']} tokens in windows of 16, " in capsys.readouterr().out


def test_progress_shows_the_perplexity_so_far(short, text, monkeypatch, capsys):
    """On a terminal, and on stderr only."""
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    assert main(["eval", "-m", short, "--text", text, "--window", "16", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    *_, last = [part for part in err.replace(console.ERASE, "").split("\r") if "#" in part and "perplexity" in part]
    assert last.split()[-1] == f"{json.loads(out)['perplexity']:.4g}"


def test_ctrl_c_tells_the_perplexity_so_far(short, text, monkeypatch, capsys):
    """The third window is cut short; two are there."""
    interrupt_at(monkeypatch, 3)
    assert main(["eval", "-m", short, "--text", text, "--window", "16"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "over 32 tokens" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--window 0", "--window 0 must be at least 1"),
        ("--max-tokens 1", "--max-tokens 1 must be at least 2"),
        ("--bos maybe", "'maybe'"),
        ("--calibration-bos off", "--calibration-bos given, but --quantize=off quantizes nothing; leave it out, or"),
        ("--compare int1", "there is no setting 'int1'; the settings are float32, bfloat16, float16"),
        ("--compare off-0.5", "there is no setting 'off-0.5'"),
        ("--compare drop1.5", "there is no setting 'drop1.5'"),
        ("--compare width.", "there is no setting 'width.'"),
        ("--compare int4+int8", "'int4+int8' sets --quantize twice"),
        ("--compare wanda-2:2", "--compare wanda-2:2: --sparsity=2:2 keeps 2 of 2"),
        ("--compare magnitude-0.5+keep", "--compare magnitude-0.5+keep: --prune=magnitude changes weights"),
        ("--compare float32:gptq", "there is no setting 'float32:gptq'"),
        ("--compare int4-g33", "--compare int4-g33: --group-size=33 is not known; choose one of 32, 64, 128"),
        ("--compare int4:best", "--compare int4:best: --quantize-method='best' is not known; choose one of rtn"),
        ("--compare int4 --quantize int8", "--compare int4 sets --quantize itself; leave --quantize out"),
        ("--compare float32,", "there is no setting ''"),
        ("--compare float32-a8", "there is no setting 'float32-a8'"),
        ("--compare int8,w8a8-a8", "--compare w8a8-a8: --activations=int8 rounds the inputs of quantized matrices,"),
        ("--compare int8-a8 --activations int8", "--compare int8-a8 sets --activations itself; leave --activations"),
        ("--compare float32 --dtype float16", "--compare float32 sets --dtype itself; leave --dtype out"),
        ("--compare int8,int4-gtensor:hqq", "--compare int4-gtensor:hqq: --group-size=tensor has one scale for a"),
        ("--compare int8,int4-gtensor:combined", "--quantize-method=combined fits one to each group; choose another"),
        ("--compare int4:gptq --calibration=", "--compare int4:gptq: --calibration='' names no file"),
        ("--compare=", "there is no setting ''"),
        ("--plot no/such/folder/p.png", "there is no folder 'no/such/folder'"),
        ("--text no/such/file", "no/such/file: No such file or directory"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(flags, message, text, capsys):
    assert main(["eval", "--text", text, *flags.split()], unopened) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("int4,int4-g64:gptq --calibration {tmp}/none", "int4-g64:gptq: cannot read the calibration text {tmp}/none ("),
        ("int4,w8a8 --calibration {tmp}/none", "w8a8: cannot read the calibration text {tmp}/none (No such file"),
        ("int4,int4:awq --calibration {tmp}/binary", "int4:awq: the calibration text {tmp}/binary: not UTF-8 text ("),
        ("int4,int4:gptq --calibration {tmp}/short", "int4:gptq: {tmp}/short: the calibration text has 6 tokens"),
        ("int4,int4:combined -m {moe}", "int4:combined: a mixture of experts cannot be calibrated: an expert sees too"),
        ("int4,w8a8 -m {moe}", "w8a8: a mixture of experts cannot be calibrated: an expert sees too few rows"),
        ("int4,int4:hqq --quantize-rules '*.o int8 gtensor'", "int4:hqq: --quantize-rules: '*.o int8 gtensor' has one"),
        ("kv8,int4 --quantize-rules 'layers.9.o int8'", "int4: --quantize-rules: no matrix is called 'layers.9.o'"),
        ("int8-a8,keep-a8", "keep-a8: --activations=int8 rounds the inputs of matrices that are quantized in groups, "),
        ("int8,float32 --activations int8", "float32: --activations=int8 rounds the inputs of matrices that are quant"),
        ("keep,int4 -m {ours}", "int4: --quantize=int4 is given, but {ours} is quantized already"),
    ],
)
def test_what_a_later_setting_cannot_do_is_told_before_the_first_is_evaluated(
    flags, message, short, text, golden_folder, tmp_path, capsys
):
    """Catches half an hour of rows that are lost by the last one's name."""
    (tmp_path / "short").write_text("x" * 6)
    (tmp_path / "binary").write_bytes(b"ab\xff")
    names = {"tmp": tmp_path, "moe": golden_folder("mixtral"), "ours": quantized(short, tmp_path)}
    words = [word.format(**names) for word in shlex.split(flags)]
    capsys.readouterr()
    assert main(["eval", "-m", short, "--text", text, "--compare", *words], unopened) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--compare " + message.format(**names) in err


def quantized(source: str, folder: Path) -> str:
    """A folder that `quantize` made of a model."""
    if not (folder / "ours").exists():
        assert main(["quantize", "-q", "-m", source, "-o", str(folder / "ours")]) == 0
    return str(folder / "ours")


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("what", [KeyboardInterrupt(), ValueError("it broke"), MemoryError()], ids=repr)
def test_what_is_finished_is_shown_when_the_rest_fails(done, what, short, text, capsys):
    """The table of those rows, then the error's line; the reference is a row, too."""
    opened = []

    def fail_after(*asked):
        opened.append(asked)
        if len(opened) > 1 + done:
            raise what
        return open_model(*asked)

    words = ["eval", "-m", short, "--text", text, "--window", "32", "--compare", "int8,int4,int3"]
    assert main(words, fail_after) == (130 if isinstance(what, KeyboardInterrupt) else 2)
    out, err = capsys.readouterr()
    table = out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table] == ["perplexity", *["float32", "int8", "int4"][: 1 + done]]
    assert err.startswith("tinyinfer: ")
    assert err.count("\n") == 1
    opened.clear()
    main([*words, "--json"], fail_after)
    assert [json.loads(line)["setting"] for line in capsys.readouterr().out.splitlines()] == ["int8", "int4"][:done]


def test_settings_may_stand_apart(text):
    """Spaces after commas are how people write lists."""
    parsed = cli.parse(["eval", "--text", text, "--compare", "int8, int4-g64:hqq ,kv4"])
    assert list(each_setting(parsed)) == ["int8", "int4-g64:hqq", "kv4"]


def test_what_is_left_may_be_fitted_again(text):
    """`refit` is a part of a name. Catches a setting by itself, which would fit where nothing is removed."""
    parsed = cli.parse(["eval", "--text", text, "--compare", "drop1,drop1+refit", "--calibration", text])
    assert [(one.drop_layers, one.refit) for one in each_setting(parsed).values()] == [(1, False), (1, True)]
    with pytest.raises(SwitchError, match="refit=on is given, but no whole part is removed"):
        each_setting(cli.parse(["eval", "--text", text, "--compare", "int8,refit"]))


def test_a_setting_may_name_integer_activations(short, text, tmp_path, capsys):
    """Catches a suffix that is read as a part of the group size, and float activations called integer ones.

    The float model stays float beside `--activations int8`, and a quantized folder's own codes are rounded by it.
    """
    parsed = cli.parse(["eval", "--text", text, "--compare", "int8-a8,int4-g64-a8:gptq,int4-gchannel"])
    found = [(one.quantize, one.group_size, one.activations, one.quantize_method)
             for one in each_setting(parsed).values()]  # fmt: skip
    assert found == [("int8", 32, "int8", "rtn"), ("int4", 64, "int8", "gptq"), ("int4", "channel", "float", "rtn")]
    flags = ("-m", short, "--text", text, "--window", "32")
    plain, rounded = evaluated(capsys, *flags, "--compare", "int8,int8-a8")
    assert plain["weight_bytes"] == rounded["weight_bytes"]
    assert plain["ledger"]["flops"] == rounded["ledger"]["flops"]
    assert 0 < plain["kl_divergence"] < rounded["kl_divergence"] < 0.01
    [alone] = evaluated(capsys, *flags, "--quantize", "int8", "--activations", "int8")
    assert alone["nll"] == pytest.approx(rounded["nll"], rel=1e-6)
    own = ("-m", quantized(short, tmp_path), "--activations", "int8")
    [ours] = evaluated(capsys, *flags[2:], *own, "--compare", "keep")
    assert ours["kl_divergence"] > 0


def test_the_reference_of_a_quantized_folder_is_what_it_keeps(short, text, tmp_path, capsys):
    """Catches 4 bits that are called float32; asked for or not, it is evaluated and shown once."""
    ours = quantized(short, tmp_path)
    flags = ("-m", ours, "--text", text, "--window", "32")
    [alone] = evaluated(capsys, *flags)
    keep, kv4 = evaluated(capsys, *flags, "--compare", "keep,kv4")
    assert (keep["setting"], keep["nll"], keep["kl_divergence"]) == ("keep", alone["nll"], 0)
    assert keep["bits_per_weight"] == alone["bits_per_weight"] < 8
    assert kv4["kl_divergence"] > 0
    for asked in ("kv4", "keep,kv4"):
        assert main(["eval", *flags, "--compare", asked]) == 0
        _, first, second, empty, *explained = capsys.readouterr().out.splitlines()
        assert [first.split()[:2], second.split()[0], empty] == [["keep", f"{keep['perplexity']:.4f}"], "kv4", ""]
        assert "against the quantized model as it is" in " ".join(explained)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"caf\xe9 au lait", "not UTF-8 text (byte 3)"), (b"", "is empty"), (b"\xef\xbb\xbf", "is empty")],
)
def test_a_file_that_is_no_text_is_refused(data, message, tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(data)
    assert main(["eval", "--text", str(tmp_path / "bad.txt")], unopened) == 2
    assert f"bad.txt: {message}" in capsys.readouterr().err


def test_a_text_scores_the_same_whatever_wrote_the_file(short, tmp_path, capsys):
    """Catches bug B13: the row's file e, a copy with a byte order mark and one with CRLF had three perplexities."""
    lines = b"The cat sat on the mat.\n" * 6
    for name, data in {"e": lines, "b": b"\xef\xbb\xbf" + lines, "c": lines.replace(b"\n", b"\r\n")}.items():
        (tmp_path / name).write_bytes(data)
    flags = ["-m", short, "--window", "64", "--text"]
    [[e], [b], [c]] = [evaluated(capsys, *flags, str(tmp_path / name)) for name in "ebc"]
    assert (b["tokens"], b["nll"]) == (c["tokens"], c["nll"]) == (e["tokens"], e["nll"])


def test_a_text_of_one_token_is_refused(short, tmp_path, capsys):
    """There is nothing to score: the mean of nothing must not become NaN."""
    (tmp_path / "one.txt").write_text("x")
    assert main(["eval", "-m", short, "--text", str(tmp_path / "one.txt"), "--window", "4"]) == 2
    assert "only 1 token" in capsys.readouterr().err


def test_a_window_beyond_the_context_is_refused_and_one_as_long_is_not(short, text, capsys):
    """A window of the whole context scores one token more than the context holds, which the model never has to see.

    The beginning token needs a place in the context.
    """
    flags = ["-m", short, "--text", text, "-c", "40", "--window"]
    for words, message in {
        "41 --bos off": "--window 41 is more than the context of 40; give a smaller one",
        "40": "--window 40 with the beginning token before it is more than the context of 40; give a smaller one, or ",
    }.items():
        assert main(["eval", *flags, *words.split()]) == 2
        assert message in capsys.readouterr().err
    assert evaluated(capsys, *flags, "40", "--bos", "off")
    assert evaluated(capsys, *flags, "39")


def test_a_model_that_overflows_is_told_and_not_printed(short, text, monkeypatch, capsys):
    """NaN in the JSON line would be no JSON."""
    monkeypatch.setattr("tinyinfer.model.transformer.head", lambda model, x, batch, ops: x[batch.logit_rows] * np.inf)
    assert main(["eval", "-m", short, "--text", text, "--window", "16", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "tinyinfer: error: the model's numbers overflow in the output head, so that its logits are not finite; "
        "its weights are damaged or were converted wrongly, so get its files again\n"
    )


def test_a_perplexity_beyond_all_floats_is_null_in_json(short, text, monkeypatch, capsys):
    """`Infinity` is no JSON, and as a table it must not be a traceback."""
    monkeypatch.setattr(LLM, "score", lambda self, tokens: np.full(len(tokens) - 1, -800.0))
    assert evaluated(capsys, "-m", short, "--text", text, "--window", "16")[0]["perplexity"] is None
    assert main(["eval", "-m", short, "--text", text, "--window", "16"]) == 0
    assert "perplexity inf (mean NLL 800.00000)" in capsys.readouterr().out


def test_the_plot_is_a_picture(short, text, tmp_path, capsys):
    """Of a model whose path holds a byte that is no text; beside it stays nothing of a run that was killed."""
    pytest.importorskip("matplotlib")
    target = tmp_path / "p.png"
    (tmp_path / ".p.png.tinyinfer.abcd_123").mkdir()
    (tmp_path / "\udcff").symlink_to(short)
    short = str(tmp_path / "\udcff")
    flags = ("--window", "16", "--compare", "float32,float16", "--plot", str(target))
    evaluated(capsys, "-m", short, "--text", text, *flags)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.png", "text.txt", "\udcff"]


@pytest.mark.weights
def test_smollm2_has_the_perplexity_that_transformers_finds(smollm2, tmp_path, capsys):
    """transformers 5, float32, the same GGUF file, the same windows: 38.80057093 over 146 tokens."""
    (tmp_path / "river.txt").write_text(str(PROMPTS[-1]), encoding="utf-8")
    [found] = evaluated(capsys, "-m", str(smollm2), "--text", str(tmp_path / "river.txt"), "--window", "64")
    assert found["tokens"] == 146
    assert found["perplexity"] == pytest.approx(38.80057093, rel=1e-5)
