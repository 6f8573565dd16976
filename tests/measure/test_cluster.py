"""A cluster on paper: its file, collectives, a rank's counts beside a real rank's, figures of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import ModelError, SwitchError
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import load_model
from tinyinfer.loading.hf_config import read_config
from tinyinfer.measure.cluster import Cluster, Link, read_cluster
from tinyinfer.measure.figures import frontier_labels, place
from tinyinfer.measure.frontier import explore, shares, splits, takeover, undominated
from tinyinfer.measure.inspect import bytes_by_part
from tinyinfer.measure.roofline import Machine, expected_step, predict_seconds
from tinyinfer.measure.split import Paper, Prediction, Split, Work, bubble, experts_read, predict, rank_config, stages
from tinyinfer.model.config import MoEConfig
from tinyinfer.model.transformer import transformer
from tinyinfer.parallel.comm import Comm
from tinyinfer.parallel.local import run_ranks
from tinyinfer.parallel.tensor import TensorOps, divide
from tinyinfer.quantization.recipe import saved_bytes
from tinyinfer.sequence import make_batch

CLUSTERS = Path(__file__).parents[2] / "docs" / "clusters"
CLUSTER = Cluster("eight", 2, 4, Machine(1e9, 1e11), 1e6, 0.0, Link(1e8, 1e-6), Link(1e7, 1e-5), 1e-5)
EVEN = small_config(vocab_size=32, hidden_size=24, intermediate_size=32, num_layers=4, max_position=64)
MIXTURE = small_config(num_layers=3, num_heads=4, num_kv_heads=4, vocab_size=32,
                       experts=MoEConfig(4, 2, 12, shared_size=16, dense_layers=(0,)))  # fmt: skip


def work_of(config: Any = EVEN, prompt: int = 8, generated: int = 10, **switches: Any) -> Work:
    """A small model's work in float32, unless switches say otherwise."""
    return Work(config, EngineConfig(**switches), prompt, generated)


# The file.


def file_of(tmp_path: Path, text: str) -> str:
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    return str(tmp_path / "c.json")


@pytest.mark.parametrize("name", ["a100", "h100", "dgx2h"])
def test_the_clusters_of_the_documentation_are_read(name):
    """Units: catches GB read as GiB, TFLOP as GFLOP, microseconds as milliseconds, and a share that is left out."""
    path = CLUSTERS / f"{name}.json"
    fields, cluster = json.loads(path.read_text()), read_cluster(str(path))
    gpu = fields["gpu"]
    assert cluster.gpu.read_bandwidth == pytest.approx(gpu["read_bandwidth_gb_s"] * gpu["read_efficiency"] * 1e9)
    assert cluster.gpu.matrix_speed == pytest.approx(gpu["matrix_speed_tflop_s"] * gpu["matrix_efficiency"] * 1e12)
    assert cluster.memory == gpu["memory_gb"] * 1e9
    assert cluster.layer_seconds == pytest.approx(gpu["layer_overhead_us"] / 1e6)
    assert cluster.within == Link(fields["within_node"]["bandwidth_gb_s"] * 1e9, pytest.approx(0.6e-6))
    assert cluster.launch == pytest.approx(6.6e-6)
    assert cluster.gpus == fields["nodes"] * fields["gpus_per_node"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": None}, "the field 'nodes' is missing"),
        ({"nodes": 0}, "the field 'nodes' is 0, but must be a whole number from 1"),
        ({"nodes": 1.5}, "the field 'nodes' is 1.5, but must be a whole number"),
        ({"gpus_per_node": -8}, "the field 'gpus_per_node' is -8"),
        ({"name": 3}, "the field 'name' is 3, but must be a string"),
        ({"gpu": None}, "the field 'gpu' is missing; add the object"),
        ({"gpu": 3}, "the field 'gpu' is 3, but must be an object"),
        ({"within_node": None}, "the field 'within_node' is missing"),
        ({"between_nodes": None}, "the field 'between_nodes' is missing"),
        ({"gpus": 8}, "the field 'gpus' is unknown; the fields here are between_nodes, "),
        ({"collective_launch_us": -1}, "the field 'collective_launch_us' is -1, but must be a positive number"),
        ({"collective_launch_us": False}, "the field 'collective_launch_us' is False"),
        ({"sources": {"gpu": 3}}, "sources: the field 'gpu' is 3, but must be a string"),
        ({"gpu.memory_gb": 0}, "gpu: the field 'memory_gb' is 0, but must be a positive number"),
        ({"gpu.memory_gb": "80"}, "gpu: the field 'memory_gb' is '80'"),
        ({"gpu.memory_gb": float("nan")}, "gpu: the field 'memory_gb' is nan"),
        ({"gpu.read_efficiency": 69}, "gpu: the field 'read_efficiency' is 69, but is a share"),
        ({"gpu.matrix_efficiency": None}, "gpu: the field 'matrix_efficiency' is missing"),
        ({"gpu.layer_overhead_us": None}, "gpu: the field 'layer_overhead_us' is missing"),
        ({"gpu.price_per_hour": -2}, "gpu: the field 'price_per_hour' is -2"),
        ({"gpu.price": 2}, "gpu: the field 'price' is unknown; the fields here are layer_overhead_us, "),
        ({"within_node.latency_us": "1"}, "within_node: the field 'latency_us' is '1'"),
        ({"within_node.bandwith_gb_s": 1}, "within_node: the field 'bandwith_gb_s' is unknown"),
        ({"between_nodes.bandwidth_gb_s": 0}, "between_nodes: the field 'bandwidth_gb_s' is 0"),
    ],
)
def test_a_wrong_field_is_told_by_file_and_name(change, message, tmp_path):
    """Catches a traceback, a field that is taken for 0 or for its default, and a misspelt one that changes nothing."""
    fields = json.loads((CLUSTERS / "h100.json").read_text())
    for name, value in change.items():
        *inside, last = name.split(".")
        holder = fields[inside[0]] if inside else fields
        holder.pop(last, None)
        if value is not None:
            holder[last] = value
    path = file_of(tmp_path, json.dumps(fields))
    with pytest.raises(ModelError) as caught:
        read_cluster(path)
    assert str(caught.value).startswith(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "instead of a JSON object"),
                                               ('{"nodes": 1, "nodes": 2}', "'nodes' is given twice")])  # fmt: skip
def test_what_is_no_cluster_is_told_by_file(text, message, tmp_path):
    """Catches a traceback of the JSON reader, and the second of two values taken in silence."""
    path = file_of(tmp_path, text)
    with pytest.raises(ModelError) as caught:
        read_cluster(path)
    assert path in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told_without_words_about_models(tmp_path):
    """Catches "a model folder needs it; download it again" for a cluster that is misspelt."""
    with pytest.raises(ModelError, match=r"x\.json: there is no such file; give a JSON file as in docs/clusters"):
        read_cluster(str(tmp_path / "x.json"))


def test_one_node_needs_no_link_between_nodes():
    """Catches a required field that says nothing; where it is given, it is read."""
    cluster = read_cluster(str(CLUSTERS / "a100.json"))
    assert cluster.between == cluster.within


# Collectives.


def test_the_faster_of_ring_and_tree_is_taken():
    """By the formulas, on arrays so small that messages decide, and so large that bytes do. Catches the slower one."""
    small, large = CLUSTER.all_reduce(4, 8), CLUSTER.all_reduce(4, 8e6)
    assert small == pytest.approx(1e-5 + 2 * 2 * (1e-6 + 8 / 1e8))
    assert large == pytest.approx(1e-5 + 2 * 3 * (1e-6 + 8e6 / 4 / 1e8))
    assert CLUSTER.all_reduce(1, 8e6) == 0
    assert Link(1.0, 1.0).tree(5, 0) == 2 * 3, "5 ranks need three levels"


def test_a_group_that_leaves_a_node_is_as_slow_as_the_network():
    """Its members in a node send together. Catches a group of 8 on NVLink, and one that has the network of one GPU."""
    assert CLUSTER.link(4) == CLUSTER.within
    assert CLUSTER.link(8) == Link(4e7, 1e-5)
    assert CLUSTER.link(4, stride=2) == Link(2e7, 1e-5), "two of the four in each node"
    assert replace(CLUSTER, within=Link(3e7, 1e-6)).link(8).bandwidth == 3e7
    hops = [CLUSTER.hop(i, i + 1, 2) for i in range(3)]
    assert hops == [CLUSTER.within, CLUSTER.between, CLUSTER.within], "two stages of two GPUs in a node of four"
    assert CLUSTER.hop(1, 0, 2) == CLUSTER.within
    assert CLUSTER.hop(0, 1, 8) == CLUSTER.between


# Counts.


@pytest.mark.parametrize("rows", [1, 5])
def test_one_gpu_counts_and_takes_what_the_roofline_says(rows):
    """Catches another count than the engine's: of the embedding, the final norm, the head or the cache."""
    [stage] = stages(EVEN, Split(1))
    expected, found = expected_step(EVEN, 8, rows), stage.step(work_of(), 8, rows, 1)
    assert (found.flops, found.bytes_moved) == (expected.flops, expected.bytes_moved)
    paper = Paper(work_of(), CLUSTER, Split(1))
    assert paper.decode(1) == (predict_seconds(expected_step(EVEN, 12, 1), CLUSTER.gpu), 0.0)
    assert paper.prefill(1)[0] == predict_seconds(expected_step(EVEN, 0, 8), CLUSTER.gpu)


WINDOWS = replace(EVEN, windows=(3, None, 5, None))


@pytest.mark.parametrize("switches", [{}, {"quantize": "int8", "quantize_head": "int8"}], ids=["floats", "int8"])
@pytest.mark.parametrize("config", [WINDOWS, MIXTURE], ids=["dense", "mixture"])
def test_stages_together_count_what_the_whole_counts(config, switches):
    """Catches a head in each stage, an embedding in none, windows or experts of other layers, and a layer lost."""
    work = work_of(config, **switches)
    for pp in (2, 3):
        parts = [stage.step(work, 4, 3, 2) for stage in stages(config, Split(1, pp))]
        [whole] = [stage.step(work, 4, 3, 2) for stage in stages(config, Split(1))]
        for name in ("flops", "weight_bytes", "kv_read_bytes", "kv_written_bytes"):
            assert sum(getattr(part, name) for part in parts) == getattr(whole, name), name


def test_quantized_weights_are_counted_as_inspect_counts_them():
    """Catches codes that are read as floats, and rows of a rounded embedding that are not."""
    work = work_of(quantize="int8", quantize_head="int8")
    [stage], whole = stages(EVEN, Split(1)), expected_step(EVEN, 4, 3).weight_bytes
    saved = saved_bytes(EVEN, work.recipe, 4, 3, 0)
    assert 0 < saved < whole
    assert stage.step(work, 4, 3, 1).weight_bytes == whole - saved


def test_sequences_share_the_weights_and_nothing_else():
    """Catches weights read once for each sequence, and keys read once for all."""
    [stage] = stages(EVEN, Split(1))
    one, many = stage.step(work_of(), 8, 1, 1), stage.step(work_of(), 8, 1, 10)
    assert many.weight_bytes - one.weight_bytes == 9 * 24 * 4, "rows of the embedding"
    assert (many.flops, many.kv_read_bytes) == (10 * one.flops, 10 * one.kv_read_bytes)


def counted_by_ranks(config: Any, ranks: int, rows: int) -> list[Ledger]:
    """What each rank of a real model, divided among threads, counts for a prompt of so many rows."""
    checkpoint = checkpoint_of(config, random_tensors(config))

    def work(comm: Comm) -> Ledger:
        inner = NumpyOps(comm.ledger)
        model = divide(load_model(checkpoint, inner, EngineConfig()), comm.rank, comm.size, inner)
        ops, seq = TensorOps(inner, comm), request(np.arange(rows).tolist())
        cache = ContiguousCache(CacheSpec(model.config.memory, rows), ops)
        cache.reserve(seq, rows)
        before = comm.ledger.copy()
        transformer(model, make_batch([(seq, 0, rows)]), cache, ops)
        return comm.ledger - before

    return run_ranks(ranks, work, ledgers=[Ledger() for _ in range(ranks)])


def test_a_rank_on_paper_counts_what_a_rank_counts():
    """All its FLOPs, bytes and messages. Catches heads, neurons or tokens that are not divided, and sums left out."""
    [stage], paper = stages(EVEN, Split(2)), Paper(work_of(), CLUSTER, Split(2))
    expected = stage.step(work_of(), 0, 6, 1)
    for found in counted_by_ranks(EVEN, 2, 6):
        assert (found.flops, found.kv_read_bytes) == (expected.flops, expected.kv_read_bytes)
        assert (found.weight_bytes, found.kv_written_bytes) == (expected.weight_bytes, expected.kv_written_bytes)
        assert found.bytes_sent == paper.bytes_sent(6) == (2 * 4 + 1) * 6 * 24 * 4 * 2 * 1 // 2


def test_a_norm_over_all_heads_adds_up_squares():
    """Two numbers a row in each layer. Catches a sum that the ranks make and the paper does not."""
    config = replace(EVEN, qk_norm="full")
    [found] = {ledger.bytes_sent for ledger in counted_by_ranks(config, 2, 6)}
    assert found == Paper(work_of(config), CLUSTER, Split(2)).bytes_sent(6) == 9 * 6 * 24 * 4 + 4 * 6 * 2 * 4
    plain, normed = (Paper(work_of(c), CLUSTER, Split(2)).decode(1)[0] for c in (EVEN, config))
    assert normed - plain > 4 * CLUSTER.all_reduce(2, 8)


def test_a_mixture_adds_up_its_shared_expert_too():
    """And each rank computes some experts: a half of the work on average, here of all 12 (row, expert) pairs. Catches
    2·L + 1 sums where a layer has three, and experts that every rank computes.
    """
    ledgers, [stage] = counted_by_ranks(MIXTURE, 2, 6), stages(MIXTURE, Split(2))
    assert sum(ledger.flops for ledger in ledgers) == 2 * stage.step(work_of(MIXTURE), 0, 6, 1).flops
    [found] = {ledger.bytes_sent for ledger in ledgers}
    assert found == Paper(work_of(MIXTURE), CLUSTER, Split(2)).bytes_sent(6) == (2 * 3 + 2 + 1) * 6 * 20 * 4


def test_rows_of_all_sequences_choose_experts():
    """As the roofline expects it of one sequence. Catches experts that are read once for each sequence, and all of them
    for a single row.
    """
    assert [experts_read(MIXTURE, rows) for rows in (1, 3, 100)] == [4, 7, 8]
    assert experts_read(MIXTURE, 3) == expected_step(MIXTURE, 0, 3).experts_read
    [stage] = stages(MIXTURE, Split(1))
    three, single = (stage.step(work_of(MIXTURE), 0, 1, n).weight_bytes for n in (3, 1))
    assert three - single == (7 - 4) * 3 * 20 * 12 * 4 + 2 * 20 * 4


def test_heads_that_do_not_divide_load_the_slowest_rank():
    """SmolLM2's 9 and 3 heads: two ranks have 6 and 3. Catches 4.5 heads, and less than one key head of nine ranks."""
    smollm2 = small_config(num_heads=9, num_kv_heads=3)
    assert [(rank_config(smollm2, n).num_heads, rank_config(smollm2, n).num_kv_heads) for n in (2, 3, 9)] == [
        (6, 2), (3, 1), (1, 1)]  # fmt: skip
    with pytest.raises(SwitchError, match="10 are more ranks than the 9 query heads"):
        rank_config(smollm2, 10)


def test_item_sizes_follow_the_switches():
    """Catches a cache or messages in float32 beside half weights, and codes that are counted as floats."""
    single, half, packed = (Paper(work_of(**switches), CLUSTER, Split(2)) for switches in
                            ({}, {"dtype": "bfloat16"}, {"quantize": "int8", "kv_bits": 8}))  # fmt: skip
    assert half.bytes_sent(1) * 2 == single.bytes_sent(1)
    [(whole, positions)], [(halved, own)], [(rounded, few)] = (one.fixed_bytes for one in (single, half, packed))
    assert (own * 2, few < positions / 2) == (positions, True)
    norms = 9 * 24 * 4
    assert halved - norms == (whole - norms) // 2
    assert rounded < whole


@pytest.mark.parametrize("config", [EVEN, replace(EVEN, tied_head=True), MIXTURE], ids=["dense", "tied", "mixture"])
def test_the_weights_of_one_gpu_are_those_that_inspect_counts(config):
    """And two stages of a tied model hold its table twice. Catches a table that is held by no stage, or by all."""
    [stage], work = stages(config, Split(1)), work_of(config)
    parts = bytes_by_part(config, 4, work.recipe)
    assert stage.weight_bytes(work) == sum(parts.values())
    table = parts["embedding"] if config.tied_head else 0
    norm = config.hidden_size * 4  # the final norm, which each stage is charged for
    assert sum(one.weight_bytes(work) for one in stages(config, Split(1, 2))) == sum(parts.values()) + table + norm


# Time.


def test_a_stage_sends_rows_to_the_next_one_and_tokens_to_the_first():
    """Over the link between them, begun like a collective. Catches rows that go back, and a message that is free."""
    paper = Paper(work_of(), CLUSTER, Split(1, 8 // 2))
    links = {(stage.first, stage.last): (stage, link) for stage, link in paper.kinds}
    assert links[True, False][1] == CLUSTER.within
    sent = {key: paper.seconds(*kind, 8, 1, 5).communication for key, kind in links.items()}
    assert sent[True, False] == pytest.approx(1e-5 + 1e-6 + 5 * 24 * 4 / 1e8)
    assert sent[False, True] == pytest.approx(1e-5 + 1e-6 + 5 * 8 / 1e8)
    far = Paper(work_of(), CLUSTER, Split(4, 2))
    seconds = [far.seconds(*kind, 8, 1, 5).communication for kind in far.kinds]
    assert len(seconds) == 2, "two stages in two nodes"
    of_embedding = (2 * 2 + 1 - 2 * 2) * CLUSTER.all_reduce(4, 5 * 24 * 4)
    assert seconds[0] - seconds[1] == pytest.approx(of_embedding + (5 * 24 * 4 - 5 * 8) / 1e7)


def test_the_bubble_is_gpipes_formula():
    """(p-1)/(m+p-1): catches an m or a p that is one off. Equal stages take (m+p-1) times one stage's time."""
    assert [bubble(p, m) for p, m in ((1, 7), (4, 1), (4, 12))] == [0, 3 / 4, 3 / 15]
    free = replace(CLUSTER, within=Link(1e30, 0.0), between=Link(1e30, 0.0), launch=0.0, layer_seconds=1.0)
    paper = Paper(work_of(prompt=8, max_num_batched_tokens=8), free, Split(1, 4))
    seconds, idle = paper.prefill(12)
    assert seconds == pytest.approx((12 + 4 - 1) * 1.0, rel=1e-3), "a layer a stage, a second a layer"
    assert idle == 3 / 15


def test_a_pipeline_multiplies_tokens_and_not_their_speed():
    """With as many sequences as stages all stages work, and a token still passes all of them. Catches a time per token
    that is divided by the stages, and one sequence that fills all of them.
    """
    free = replace(CLUSTER, within=Link(1e30, 0.0), between=Link(1e30, 0.0), launch=0.0, layer_seconds=1.0)
    one, four, eight = (predict(Paper(work_of(), free, Split(1, 4)), 1, n) for n in (1, 4, 8))
    assert [round(p.tpot_s, 3) for p in (one, four, eight)] == [4, 4, 4]
    assert [round(p.generation_tps, 2) for p in (one, four, eight)] == [0.25, 1, 2]


def test_slower_wires_only_cost():
    """Doubling every latency lengthens each step that sends, by no more than twice, and no other. Catches a latency
    that is left out, or that makes another algorithm win for less than before.
    """
    slow = replace(CLUSTER, within=Link(1e8, 2e-6), between=Link(1e7, 2e-5), launch=2e-5)
    for split in (Split(1), Split(2), Split(4), Split(4, 2), Split(1, 4)):
        before, after = (Paper(work_of(), cluster, split).decode(3)[0] for cluster in (CLUSTER, slow))
        assert before < after < 2 * before if split.gpus > 1 else before == after, split


def test_replicas_share_nothing():
    """Two replicas of a split with twice the sequences give twice the tokens at the same latency; an odd one waits for
    the fuller replica. Catches sequences that are not dealt out, and a replica's wires.
    """
    paper = Paper(work_of(), CLUSTER, Split(2))
    one, two, odd = predict(paper, 1, 3), predict(paper, 2, 6), predict(paper, 2, 5)
    assert (two.tpot_s, two.generation_tps) == (one.tpot_s, 2 * one.generation_tps)
    assert (odd.tpot_s, odd.generation_tps) == (one.tpot_s, 5 / one.tpot_s)
    assert two.memory_bytes == one.memory_bytes


def test_what_does_not_fit_is_marked_with_what_is_missing():
    """Weights and the cache of all sequences, to the byte. Catches a limit that weights alone decide."""
    paper = Paper(work_of(), CLUSTER, Split(2))
    full = paper.memory_bytes(3)
    assert full - paper.memory_bytes(2) == 18 * 4 * 2 * 6 * 4, "positions x layers x a key and a value of one head"
    exact, short = (predict(Paper(work_of(), replace(CLUSTER, memory=m), Split(2)), 1, 3) for m in (full, full - 100))
    assert (exact.missing_bytes, short.missing_bytes) == (0, 100)
    tight = explore(work_of(), replace(CLUSTER, memory=full - 100), Split(2))
    assert [one.sequences for one in tight.fitting] == [1, 2]
    assert tight.predictions == tight.fitting, "what cannot fit is not tried"


# The frontier.


def beats(one: Prediction, other: Prediction) -> bool:
    """Whether one is at least as good in both latency and cost, and better in one of them."""
    mine, others = (one.tpot_s, -one.tps_per_gpu), (other.tpot_s, -other.tps_per_gpu)
    return mine != others and mine[0] <= others[0] and mine[1] <= others[1]


@pytest.mark.parametrize("sequences", [None, 6])
def test_nothing_beats_what_is_on_the_frontier(sequences):
    """And everything else that fits is beaten, or equal. Catches a scan in the wrong order."""
    frontier = explore(work_of(), replace(CLUSTER, memory=40_000), sequences=sequences)
    assert len(frontier.best) > 1
    assert not [one for one in frontier.best for other in frontier.fitting if beats(other, one)]
    rest = [one for one in frontier.fitting if not any(beats(other, one) for other in frontier.fitting)]
    assert {(one.tpot_s, one.tps_per_gpu) for one in rest} == {(one.tpot_s, one.tps_per_gpu) for one in frontier.best}
    assert all(one.missing_bytes == 0 for one in frontier.best)
    assert undominated(frontier.best) == frontier.best


def test_the_best_split_for_a_latency_is_the_cheapest_that_keeps_it():
    """Of all that fit, tried one by one. Catches the fastest one, and one that is a little too slow."""
    frontier = explore(work_of(), CLUSTER)
    for limit in (one.tpot_s for one in frontier.best):
        found = frontier.within(limit)
        assert found in frontier.best
        assert found.tps_per_gpu == max(one.tps_per_gpu for one in frontier.fitting if one.tpot_s <= limit)
    assert frontier.within(frontier.best[0].tpot_s * 0.999) is None


def test_labels_of_the_picture_name_a_split_where_it_changes():
    """Catches a label of all replicas' sequences, and a split that is named at every point or at none."""
    points = [predict(Paper(work_of(), CLUSTER, Split(tp)), 2, n) for tp, n in ((2, 2), (2, 6), (4, 3), (2, 3))]
    assert [text for _, text in frontier_labels(points)] == ["2 x 1: 1", "3", "4 x 1: 2", "2 x 1: 2"]
    assert place(points[0]) == (points[0].tpot_s * 1e3, points[0].generation_tps / 4)


def test_splits_use_the_whole_cluster_and_no_more_than_the_model_has():
    """Catches a share of more ranks than heads, more stages than layers, and GPUs that no replica can use."""
    tried = list(splits(work_of(), CLUSTER))
    assert {one.tp for one in tried} == {1, 2, 4}, "four heads"
    assert max(one.pp for one in tried) == 4
    assert all(CLUSTER.gpus % one.gpus == 0 for one in tried)
    many = small_config(num_heads=16, num_kv_heads=16, num_layers=4, vocab_size=32)
    assert shares(work_of(many), replace(CLUSTER, nodes=3)) == [1, 2, 4], "8 would leave 4 of 12 GPUs idle"
    assert {one.split.dp for one in explore(work_of(), CLUSTER, sequences=2).predictions} == {1, 2}
    with pytest.raises(SwitchError, match="TP 1 x PP 5 x DP 1 has more stages than the 4 layers"):
        explore(work_of(), CLUSTER, Split(1, 5))
    with pytest.raises(SwitchError, match="TP 4 x PP 2 x DP 2 takes 16 GPUs, and the cluster has 8"):
        explore(work_of(), CLUSTER, Split(4, 2, 2))


def test_communication_takes_over_as_ranks_are_added():
    """Its share rises with the ranks, from none. Catches a share of the sum that leaves out one of the two."""
    shares = takeover(work_of(), CLUSTER, 1)
    assert [tp for tp, _ in shares] == [1, 2, 4]
    assert shares[0][1] == 0
    assert shares[1][1] < shares[2][1] < 1
    seconds = Paper(work_of(), CLUSTER, Split(2)).decode(1)[0]
    sums = 9 * CLUSTER.all_reduce(2, 24 * 4)
    assert shares[1][1] == pytest.approx(sums / seconds)


# What others have measured.

DOCUMENTED = (CLUSTERS.parent / "parallel.md").read_text(encoding="utf-8")
LLAMA_3_8B = {"vocab_size": 128256, "intermediate_size": 14336, "num_kv_heads": 8}
GPT_FAST = {  # tokens a second on 1, 2, 4 and 8 GPUs
    "llama-2-7b": ({}, (104.9, 168.84, 254.02, 328.43)),
    "llama-2-70b": ({}, (None, 21.32, 38.01, 62.50)),
    "llama-3-8b": (LLAMA_3_8B, (94.19, 150.48, 219.77, 274.65)),
}


@pytest.mark.parametrize("name", GPT_FAST)
def test_gpt_fasts_tokens_a_second(name):
    """README of gpt-fast, "Tensor Parallelism": bfloat16, batch 1, a prompt of 5 and 200 new tokens. The 7B model's
    figure on one GPU gave the cluster file its overhead of a layer; the ten others are predictions. Catches a model of
    communication that fits one size only, and a constant of the file that was changed without a look at these.
    """
    changes, published = GPT_FAST[name]
    config = read_config(CLUSTERS / f"{name.replace('3-8b', '2-7b')}.json")
    work = work_of(replace(config, **changes), 5, 200, dtype="bfloat16")
    cluster = read_cluster(str(CLUSTERS / "a100.json"))
    for tp, figure in zip((1, 2, 4, 8), published, strict=True):
        found = predict(Paper(work, cluster, Split(tp)), 1, 1)
        if figure is None:
            assert found.missing_bytes > 60e9
        else:
            assert abs(found.generation_tps / figure - 1) < 0.15, (tp, found.generation_tps)
            assert f"{found.generation_tps:.1f}, {figure:g}, " in DOCUMENTED, "docs/parallel.md has older figures"


def test_thousands_of_gpus_are_explored():
    """70B on 4096 GPUs: all of them are used, and a node is not left for less latency. Catches a loop over GPUs."""
    cluster = replace(read_cluster(str(CLUSTERS / "h100.json")), nodes=512)
    work = work_of(read_config(CLUSTERS / "llama-2-70b.json"), 1024, 256, dtype="bfloat16")
    frontier = explore(work, cluster)
    assert {one.split.gpus for one in frontier.fitting} == {4096}
    assert frontier.best[0].split.tp == 8, "16 GPUs wait for the network longer than they save"
    assert 500 < len(frontier.predictions) < 2000
