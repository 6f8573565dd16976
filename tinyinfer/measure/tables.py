"""What was measured, as text: a model's description, a benchmark's figures, an evaluation's rows.

Each function takes what the JSON line holds (inspect.describe, phases.record, evaluate.evaluate).
"""

from __future__ import annotations

import re
from typing import Any

from tinyinfer.units import amount, number, table

# A model.


def model_text(model: dict[str, Any]) -> str:
    """The sections about a model, from what inspect.describe returns."""
    sections = [heading(model), sizes_table(model), cache_line(model), roofline_table(model), reasons(model)]
    if any(matrix["grid"] for matrix in model["matrices"]):
        sections.insert(2, matrix_table(model["matrices"]))
    return "\n\n".join(sections)


def heading(model: dict[str, Any]) -> str:
    """Describes the model in a few lines: family, sizes, context."""
    c, windows = model["config"], model["windows"]
    heads = f"{c['num_heads']} query and {c['num_kv_heads']} key/value heads of {c['head_dim']}"
    lines = [
        f"{model['model']} ({model['path']})",
        f"  {c['architecture']}, {c['num_layers']} layers of width {c['hidden_size']}, {heads}, "
        f"vocabulary {c['vocab_size']}",
        f"  context {model['max_context']} positions, {amount(model['file_bytes'], 'B')} of weights in the file, "
        f"chat template: {'yes' if model['chat_template'] else 'no'}",
    ]
    if windows:
        lines.append(f"  some layers see only the last {' or '.join(map(str, windows))} positions")
    boundary = model["rotation_boundary"]
    if boundary and boundary < model["max_context"]:
        lines.append(f"  sequences of more than {boundary} positions are rotated by other frequencies")
    if c["experts"]:
        lines.append(f"  {mixture_words(c)}, so {model['parameters_per_token']:,} parameters a token")
    return "\n".join(lines)


def mixture_words(c: dict[str, Any]) -> str:
    """What a token uses of a mixture: 4 of 60 experts a token beside a shared one, in 20 of 24 layers."""
    experts, layers, dense = c["experts"], c["num_layers"], len(c["experts"]["dense_layers"])
    shared = " beside a shared one" if experts["shared_size"] else ""
    some = f", in {layers - dense} of {layers} layers" if dense else ""
    return f"{experts['experts_per_token']} of {experts['num_experts']} experts a token{shared}{some}"


def sizes_table(model: dict[str, Any]) -> str:
    """Lists parameters and bytes of each part of the model."""
    numbers, sizes = model["parameters_by_part"], model["weight_bytes_by_part"]
    quantized = any(matrix["grid"] for matrix in model["matrices"])
    rows = [("", "parameters", "in memory" if quantized else model["engine"]["dtype"])]
    rows += [(part, f"{numbers[part]:,}", amount(sizes[part], "B")) for part in numbers]
    if model["config"]["tied_head"]:
        rows[-1] = ("head", "the embedding again", "")
    rows.append(("all", f"{model['parameters']:,}", amount(model["weight_bytes"], "B")))
    return table(rows)


def matrix_table(matrices: list[dict[str, Any]]) -> str:
    """Bits and bytes of the matrices; one line for all layers that are alike."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for matrix in matrices:
        name = re.sub(r"^layers\.\d+\.", "layers.*.", matrix["name"])
        kinds.setdefault((name, scheme_text(matrix["grid"])), []).append(matrix)
    rows = [("", "grid", "bits a weight", "bytes")]
    for (name, scheme), alike in kinds.items():
        size, bits = amount(alike[0]["bytes"], "B"), f"{alike[0]['bits_per_weight']:.4g}"
        one = len(alike) == 1
        rows.append((alike[0]["name"] if one else name, scheme, bits, size if one else f"{len(alike)} x {size}"))
    return table(rows)


def scheme_text(scheme: dict[str, Any] | None) -> str:
    """A scheme in words, such as int4 g32 asymmetric, or with scales of scales int4 g32x8 asymmetric."""
    if scheme is None:
        return "floats"
    nested = f"x{scheme['nested']}" if "nested" in scheme else ""
    group = f"g{scheme['group']}{nested}" if scheme["group"] else "tensor" if scheme["whole"] else "channel"
    return f"int{scheme['bits']} {group} {'symmetric' if scheme['symmetric'] else 'asymmetric'}"


def cache_line(model: dict[str, Any]) -> str:
    """Says how many bytes the keys and values take."""
    each, full = model["kv_bytes_per_token"], model["kv_bytes_at_max_context"]
    kept = f"{amount(full, 'B')} for {model['max_context']} positions" if full else "and this switch keeps none"
    return f"keys and values: {amount(each, 'B')} a token, {kept}"


def roofline_table(model: dict[str, Any]) -> str:
    """What each step costs, and the most that the machine can do."""
    rows = [("", "FLOPs a token", "bytes a token", "FLOPs a byte", "limit", "at most")]
    rows += [
        (
            step["step"],
            amount(step["flops_per_token"], "FLOP"),
            amount(step["bytes_per_token"], "B"),
            f"{step['flops_per_byte']:.3g}",
            step["limit"],
            f"{step['tokens_per_second']:.4g} tok/s",
        )
        for step in model["roofline"]
    ]
    return table(rows)


def reasons(model: dict[str, Any]) -> str:
    """Explains which limit holds for each step: its FLOPs for each byte, compared with the machine's."""
    balance = model["balance_flops_per_byte"]
    lines = [
        f"this machine reads {amount(model['read_bandwidth'], 'B/s')} and multiplies "
        f"{amount(model['matrix_flops'], 'FLOP/s')}: {balance:.3g} FLOPs in the time of a byte"
    ]
    for step in model["roofline"]:
        side, waits = ("more", "memory waits") if step["limit"] == "arithmetic" else ("fewer", "the processor waits")
        lines.append(f"  {step['step']} has {step['flops_per_byte']:.3g} for each byte, {side} than that: {waits}")
    return "\n".join(lines)


# Benchmarks. A row: label, name, factor, and whether a row of zeros is worth showing.

LATENCIES = (("time to first token, s", "ttft", 1.0), ("time per output token, ms", "tpot", 1e3),
             ("gap between tokens, ms", "gap", 1e3), ("end to end, s", "e2e", 1.0),
             ("queue, s", "queue", 1.0))  # fmt: skip
ROWS = (
    ("time, s", "seconds", 1.0, True),
    ("prefill, tok/s", "prompt_tps", 1.0, True),
    ("generation, tok/s", "generation_tps", 1.0, True),
    ("output, tok/s", "output_tps", 1.0, True),
    ("prompt and output, tok/s", "total_tps", 1.0, True),
    ("time to first token, s", "ttft_s", 1.0, True),
    ("time per output token, ms", "tpot_s", 1e3, True),
    ("decode step, ms", "decode_step_s", 1e3, True),
    ("longest gap between tokens, ms", "gap_max_s", 1e3, True),
    ("end to end, s", "e2e_p50_s", 1.0, True),
    ("queue, s", "queue_p50_s", 1.0, True),
    ("steps", "steps", 1.0, True),
    ("prompt tokens computed", "computed_prompt_tokens", 1.0, True),
    ("prompt tokens from the cache", "cached_tokens", 1.0, False),
    ("tokens computed again", "recomputed_tokens", 1.0, False),
    ("rows of padding", "padding_tokens", 1.0, False),
    ("preemptions", "preemptions", 1.0, False),
    ("drafts accepted, %", "acceptance_rate", 100.0, True),
    ("KV cache, peak MB", "peak_cache_bytes", 1e-6, False),
    ("KV cache, mean MB", "mean_cache_bytes", 1e-6, False),
    ("KV cache wasted when fullest, %", "wasted_share", 100.0, True),
    ("the same by the formula, %", "formula_wasted_share", 100.0, True),
    ("cost of a million output tokens", "cost_per_million_output_tokens", 1.0, True),
    ("cost of a million tokens, prompts too", "cost_per_million_tokens", 1.0, True),
)

PER_REQUEST = ("seconds", "ttft_s", "tpot_s", "gap_max_s", "e2e_p50_s", "queue_p50_s")


def workload_title(line: dict[str, Any]) -> str:
    """The model, and which requests were replayed on it."""
    rounds = "" if line["rounds"] == 1 else f", median of {line['rounds']} rounds"
    cut = "" if line["complete"] else f", interrupted: {line['finished']} finished"
    clock = ", simulated" if line["clock"] == "simulated" else ""
    requests = f"{line['workload']} workload of {number(line['requests'])} requests"
    return f"{line['engine']['model']}: {requests}{rounds}{clock}{cut}"


def workload_text(line: dict[str, Any]) -> str:
    """Two tables: how long each request waited for what, and the figures of all together."""
    waits = [("", "mean", "p50", "p90", "p99", "max")]
    for label, name, factor in LATENCIES:
        values = [line.get(f"{name}_{part}_s") for part in waits[0][1:]]
        waits.append((label, *(number(value, factor) for value in values)))  # type: ignore[arg-type]
    asked = f"{line['prompt_tokens']} prompt and {line['generated_tokens']} output tokens"
    together = table(shown([line], per_request=False))
    return f"{workload_title(line)}\n\n{table(waits)}\n\n{asked} in {number(line['seconds'])} s\n{together}"


def shown(lines: list[dict[str, Any]], per_request: bool = True) -> list[list[str]]:
    """The rows that have a figure, a column for each line. per_request: with the medians of single requests."""
    rows = []
    for label, name, factor, zeros in ROWS:
        values = [line.get(name) for line in lines]
        worth = any(values) or (zeros and any(value is not None for value in values))
        if worth and (per_request or name not in PER_REQUEST):
            rows.append([label, *(number(value, factor) for value in values)])
    return rows


def comparison(lines: list[dict[str, Any]]) -> str:
    """Settings side by side; of two, with the ratio of the first to the second."""
    head = ["", *(line["setting"] for line in lines)]
    if len(lines) != 2 or lines[0]["setting"] != "as given":
        return table([head, *shown(lines)])
    ratios = {label: number(lines[0][name] / lines[1][name])
              for label, name, *_ in ROWS if name in comparable(lines)}  # fmt: skip
    return table([[*head, "first/second"], *([*row, ratios.get(row[0], "")] for row in shown(lines))])


def comparable(lines: list[dict[str, Any]]) -> list[str]:
    """The names of figures that all settings have and that can be divided by one another."""
    names = [name for name in lines[0] if name in {row[1] for row in ROWS} or name.endswith(("_s", "_tps"))]
    return [name for name in names if all(isinstance(line.get(name), (int, float)) and line[name] for line in lines)]


def bench_text(line: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """A benchmark of one setting, or of several side by side. line: the joined line, records: one for each setting."""
    workload = "workload" in line
    if len(records) == 1:
        return workload_text(line) if workload else phases_text(line)
    outputs = f"\n\noutputs: {line['outputs']}" if line.get("outputs") else ""
    return f"{workload_title(line) if workload else phases_title(line)}\n\n{comparison(records)}{outputs}"


def phases_title(line: dict[str, Any]) -> str:
    """The model, and which rounds were measured with it."""
    asked = f"{line['prompt_tokens']} prompt and {line['generated_tokens']} generated tokens"
    rounds = "one round" if line["rounds"] == 1 else f"median of {line['rounds']} rounds"
    clock = ", simulated" if line["clock"] == "simulated" else ""
    return f"{line['engine']['model']}: {line['batch']} x ({asked}), {rounds}{clock}"


def phases_text(line: dict[str, Any]) -> str:
    """Prefill and decode, predicted beside measured."""
    speed, bandwidth = amount(line["matrix_flops"], "FLOP/s"), amount(line["read_bandwidth"], "B/s")
    rows = [
        ("", "predicted", "measured", "reached"),
        ("prefill, s", f"{line['predicted_prefill_seconds']:.4g}", f"{line['prefill_seconds']:.4g}", ""),
        ("prefill, tok/s", f"{line['predicted_prompt_tps']:.4g}", f"{line['prompt_tps']:.4g}",
         f"{line['prefill_matrix_share']:.0%} of {speed}"),
        ("decode, tok/s", f"{line['predicted_generation_tps']:.4g}", f"{line['generation_tps']:.4g}",
         f"{line['decode_bandwidth_share']:.0%} of {bandwidth}"),
        ("time to first token, s", "", f"{line['ttft_s']:.4g}", ""),
        ("time per output token, ms", "", f"{line['tpot_s'] * 1e3:.4g}", ""),
        ("outside the forward pass, ms a token", "", f"{line['outside_forward_s'] * 1e3:.3g}", ""),
        ("weights", "", amount(line["weight_bytes"], "B"), ""),
        ("KV cache at its peak", "", amount(line["peak_cache_bytes"], "B"), ""),
        ("peak memory", "", amount(line["peak_memory_bytes"], "B"), ""),
    ]  # fmt: skip
    if line.get("acceptance_rate") is not None:
        rows.append(("drafts accepted", "", f"{line['acceptance_rate']:.0%}", ""))
    for kind in ("prompt", "generated"):
        if cost := line.get(f"cost_per_million_{kind}_tokens"):
            rows.append((f"cost of a million {kind} tokens", "", f"{cost:.4g}", ""))
    return f"{phases_title(line)}\n\n{table(rows)}"


# Clusters on paper.


def cluster_text(line: dict[str, Any]) -> str:
    """The frontier of a model's splits, from what frontier.report returns: a row each, and what it says in words."""
    head = ["  TP x PP x DP", "sequences", "GPUs", "first token, s", "per token, ms", "tok/s", "tok/s a GPU",
            "communication", "memory a GPU"]  # fmt: skip
    priced = line["price_per_gpu_hour"] is not None
    rows = [head + ["a million tokens"] * priced]
    for one in line["frontier"]:
        cost = [number(one["cost_per_million_generated_tokens"])] * priced
        rows.append([f"{'* ' if one == line['best'] else '  '}{split_text(one)}", number(one["sequences"]),
                     number(one["gpus"]), number(one["ttft_s"]), number(one["tpot_s"], 1e3),
                     number(one["generation_tps"]), number(one["generation_tps_per_gpu"]),
                     f"{one['communication']:.0%}", amount(one["memory_bytes"], "B"), *cost])  # fmt: skip
    tokens = f"{line['prompt_tokens']} prompt and {line['generated_tokens']} generated tokens a sequence"
    title = f"{line['engine']['model']} on {line['cluster']} ({line['gpus']} GPUs), simulated: {tokens}"
    fit = f"{line['fitting']} of {line['predicted']} predictions fit into memory"
    shown = f"{fit}; shown are those that no other beats in time per token and in tokens a second for each GPU"
    return "\n\n".join([title, table(rows), "\n".join([*best_words(line), takeover_words(line), shown])])


def split_text(one: dict[str, Any]) -> str:
    """A split as 8 x 1 x 64, in the order of the table's head."""
    return " x ".join(str(one[f"{kind}_parallel_size"]) for kind in ("tensor", "pipeline", "data"))


def best_words(line: dict[str, Any]) -> list[str]:
    """Says which split is the answer to the latency that was asked for; nothing where none was."""
    if line["tpot_limit_s"] is None:
        return []
    limit = f"at most {number(line['tpot_limit_s'], 1e3)} ms per token"
    if line["best"] is None:
        return [f"no split keeps {limit}; the fastest takes {number(line['frontier'][0]['tpot_s'], 1e3)} ms"]
    return [f"* the cheapest split of {limit}: {split_text(line['best'])}"]


def takeover_words(line: dict[str, Any]) -> str:
    """Says from how many GPUs a layer on communication takes more than half of a decode step."""
    found = {one["tensor_parallel_size"]: one["share"] for one in line["communication"]}
    asked = number(line["sequences"] or 1)
    of = f"a decode step of {asked} sequence{'s' * (asked != '1')}, without stages and replicas"
    first = next((tp for tp, share in found.items() if share > 0.5), None)
    if first is None:
        return f"communication takes less than half of {of}: {max(found.values()):.0%} at TP {max(found)}"
    before = [tp for tp in found if tp < first][-1]
    others = f"{found[first]:.0%}, and {found[before]:.0%} at TP {before}"
    return f"communication takes more than half of {of}, from TP {first} on ({others})"


# Evaluations.


def evaluation_text(record: dict[str, Any]) -> str:
    """Puts the figures of one setting into a sentence."""
    return (
        f"perplexity {record['perplexity']:.4f} (mean NLL {record['nll']:.5f}) over {record['tokens']} tokens "
        f"in {scored_windows(record)}, {amount(record['weight_bytes'], 'B')} of weights, {record['seconds']:.1f} s"
    )


def scored_windows(record: dict[str, Any]) -> str:
    """How the text was cut, and whether a beginning token was put before each window."""
    return f"windows of {record['window']}{' after the beginning token' if record['bos'] else ''}"


def evaluation_table(records: list[dict[str, Any]], reference: dict[str, Any]) -> str:
    """The figures of several settings in a table, each beside the reference."""
    rows = [("", "perplexity", "change", "KL", "top-1", "bits", "weights", "ratio", "seconds")]
    shown = [] if reference["setting"] in [record["setting"] for record in records] else [reference]
    for record in [*shown, *records]:
        change = record["perplexity"] / reference["perplexity"] - 1
        ratio = record["weight_bytes"] / reference["weight_bytes"]
        rows.append((record["setting"], f"{record['perplexity']:.4f}", f"{change:+.3%}",
                     f"{record['kl_divergence']:.4f}", f"{record['top1_agreement']:.2%}",
                     f"{record['bits_per_weight']:.3g}", amount(record["weight_bytes"], "B"), f"{ratio:.3f}",
                     f"{record['seconds']:.1f}"))  # fmt: skip
    return f"{table(rows)}\n\n{explanation(reference)}"


def explanation(reference: dict[str, Any]) -> str:
    """What the columns of evaluation_table mean."""
    other = "the float model" if reference["setting"] == "float32" else "the quantized model as it is"
    return (
        f"{reference['tokens']} tokens scored in {scored_windows(reference)}. change, KL divergence (nats a token)"
        f" and top-1 agreement: against {other};\nbits: a weight of the layers' matrices, scales included; "
        "weights: the whole model in memory"
    )
