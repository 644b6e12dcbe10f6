"""The numerics guard passes sound models and refuses broken ones, saying by how much."""

import pytest
import torch

from probing import _numerics
from probing._models import NumericsError, check_numerics, load_model, padding_mask, random_init

LENGTHS = torch.tensor([12, 5, 9, 12, 2])


def tokens_for(model, n=5, length=12):
    return torch.randint(1, model.cfg.d_vocab, (n, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("which", ["othello_dir", "gpt2_dir", "llama_dir", "neox_dir", "encoder_dir", "bert_dir"])
def test_a_sound_model_passes_far_below_the_tolerance(which, request, no_network):
    model = load_model(request.getfixturevalue(which), device="cpu")
    report = check_numerics(model, tokens_for(model), LENGTHS)
    assert report.against_plain < 1e-5 and report.against_unpadded < 1e-5
    assert (report.tolerance, report.n_prompts) == (1e-4, 4)


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 5e-2), ("float16", 1e-2), ("float64", 1e-6)])
def test_the_tolerance_follows_the_dtype(gpt2_dir, dtype, tolerance):
    model = load_model(gpt2_dir, device="cpu", dtype=dtype)
    report = check_numerics(model, tokens_for(model), LENGTHS)
    assert report.tolerance == tolerance and report.against_plain <= tolerance


def test_compatibility_mode_is_compared_by_log_probabilities(othello_dir):
    model = load_model(othello_dir)
    model.enable_compatibility_mode()
    assert check_numerics(model, tokens_for(model), LENGTHS).against_plain < 1e-4


@pytest.mark.parametrize("which", ["othello_dir", "bert_dir"])
def test_one_weight_changed_after_loading_is_refused(which, request):
    model = load_model(request.getfixturevalue(which), device="cpu")
    check_numerics(model, tokens_for(model), LENGTHS)
    model.blocks[0].mlp.out.weight[0, 0] += 3.0
    with pytest.raises(NumericsError, match=r"differs by up to [\d.e+-]+ \(relative, torch.float32\) from plain "
                                            r"Hugging Face, at most 0.0001 is allowed. First at "
                                            r"blocks.1.hook_resid_pre of prompt \d, position \d+, by [\d.e+-]+"):
        check_numerics(model, tokens_for(model), LENGTHS)


def test_a_change_in_the_last_block_is_seen_without_a_head(bert_dir):
    model = load_model(bert_dir, device="cpu")
    model.blocks[5].mlp.out.weight[0, 0] += 3.0
    with pytest.raises(NumericsError, match="First at blocks.5.hook_resid_post"):
        check_numerics(model, tokens_for(model), LENGTHS)


def test_a_change_in_the_unembedding_is_seen(gpt2_dir):
    model = load_model(gpt2_dir, device="cpu")
    model.unembed.original_component.weight = torch.nn.Parameter(model.unembed.weight.roll(1, 0), requires_grad=False)
    with pytest.raises(NumericsError, match="First at log-probabilities"):
        check_numerics(model, tokens_for(model), LENGTHS)


def test_a_model_that_is_not_finite_is_refused(gpt2_dir):
    model = load_model(gpt2_dir, device="cpu")
    model.blocks[1].mlp.out.weight[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="is not finite .* First at blocks.2.hook_resid_pre"):
        check_numerics(model, tokens_for(model), LENGTHS)


@pytest.mark.parametrize("lengths", [LENGTHS, torch.full((5,), 12)])
def test_an_encoder_run_without_its_padding_mask_is_refused(encoder_dir, lengths):
    model = load_model(encoder_dir, device="cpu")
    check_numerics(model, tokens_for(model), lengths)
    assert padding_mask(model, tokens_for(model), LENGTHS).sum(1).tolist() == LENGTHS.tolist()
    model = load_model(encoder_dir, device="cpu")
    model.cfg.attention_dir = "causal"  # what is believed, not what the weights do
    assert padding_mask(model, tokens_for(model), LENGTHS) is None
    with pytest.raises(NumericsError, match="from the same prompt unpadded"):
        check_numerics(model, tokens_for(model), lengths)


def test_a_model_without_a_twin_is_compared_with_itself_unpadded(gpt2_dir):
    model = random_init(load_model(gpt2_dir, device="cpu"))
    report = check_numerics(model, tokens_for(model, 1), LENGTHS[:1])
    assert report.against_plain is None and report.against_unpadded < 1e-5


def test_the_guard_runs_once_per_model_and_again_after_a_write(gpt2_dir):
    model = load_model(gpt2_dir, device="cpu")
    first = check_numerics(model, tokens_for(model), LENGTHS)
    assert check_numerics(model, tokens_for(model), LENGTHS) is first
    model.blocks[0].mlp.out.weight[0, 0] += 0.0
    assert check_numerics(model, tokens_for(model), LENGTHS) is not first


def test_relative_error_is_per_token():
    x = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    y = torch.tensor([[[3.0, 3.0], [0.0, 1.0]]])
    torch.testing.assert_close(_numerics.relative_error(x, y), torch.tensor([1 / 18**0.5, 0.0], dtype=torch.float64))
