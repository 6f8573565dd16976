"""What a round says: figures of given times by plain arithmetic, and which steps are prefill."""

from __future__ import annotations

from rounds import MACHINE, one_round, rounds_of

from tinyinfer import LLM
from tinyinfer.measure import bench, phases
from tinyinfer.measure.roofline import parse_machine


def test_figures_of_a_round_by_hand():
    """Catches: the first token counted as decode, a step's time counted once for each of its sequences."""
    assert phases.phase_figures(one_round(), MACHINE) == {
        "prompt_tps": 6 / 4,
        "predicted_prompt_tps": 6 / 3,  # 3000 FLOPs at 1000 a second
        "generation_tps": 4 / 2.5,  # of both together
        "predicted_generation_tps": 4 / (2 * 0.5),  # 50 bytes at 100 a second
        "prefill_seconds": 4.0,
        "predicted_prefill_seconds": 3.0,
        "prefill_matrix_share": 3000 / 4 / 1000,
        "decode_bandwidth_share": 2 * 50 / 2.5 / 100,
        "decode_step_s": 1.25,
        "outside_forward_s": 0.375 / 2,  # before the forward pass and after it, for two tokens
    }


def test_a_step_without_a_cache_is_still_decode(golden_folder):
    """It computes the prompts again, but they were done before."""
    done = rounds_of(LLM(str(golden_folder("llama")), kv_cache="none"), [5, 6, 7], [8, 9, 10])
    assert [phases.is_prefill(step) for step in done.steps] == [True, False, False]
    assert phases.phase(done, False, MACHINE).tokens == 4


def test_pieces_of_prompts_bring_no_tokens_and_mixed_steps_are_prefill(golden_folder):
    """Chunks of 4: the first prompt decodes beside the second one's pieces. Catches tokens counted by spans."""
    done = rounds_of(LLM(str(golden_folder("llama")), max_num_batched_tokens=4), [5] * 3, [6] * 6, new=4)
    kinds = [([span.rows for span in step.batch.spans], phases.is_prefill(step)) for step in done.steps]
    assert kinds[:3] == [([3, 1], True), ([1, 3], True), ([1, 2], True)]
    decode = phases.phase(done, False, MACHINE)
    assert decode.tokens == (4 - 3) + 3  # what the second prompt's pieces did not overlap with
    assert phases.phase(done, True, MACHINE).tokens == 9


def test_guesses_bring_several_tokens_a_step(golden_folder):
    """Catches steps counted instead of tokens: a round that repeats itself generates the same number either way.

    On a simulated clock: on a real one, drafts end where they are measured to cost more than they bring.
    """
    machine = parse_machine("37GB/s,200GFLOP/s")
    models = (LLM(str(golden_folder("llama")), speculative=name) for name in ("off", "prompt-lookup"))
    plain, fast = (bench.simulated(llm, machine) for llm in models)
    rounds = [rounds_of(llm, [5, 6, 7, 8] * 4, new=40) for llm in (plain, fast)]
    assert bench.compare_outputs(*([done] for done in rounds)) == "identical"
    assert [phases.phase(done, False, MACHINE).tokens for done in rounds] == [39, 39]
    assert len(rounds[1].steps) < len(rounds[0].steps) == 40
