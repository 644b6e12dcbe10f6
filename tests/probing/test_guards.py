"""Prompts that do not fit, sites that are not there: one clear error each."""

import dataclasses

import pandas as pd
import pytest
import torch

import tasks
from probing import Site
from probing._guards import available_sites
from probing._models import check_fits, check_site, load_model
from tasks import LabelledPrompts
from tasks.othello._tokens import words


def prompts(tokens, vocabulary=(), task="othello"):
    tokens = torch.as_tensor(tokens)
    examples = pd.DataFrame({"prompt": [0, 1, 2], "pos": 0, "group": ["a", "b", "c"],
                             "split": ["train", "validation", "test"]})
    return LabelledPrompts(task=task, tokens=tokens, lengths=torch.full((len(tokens),), tokens.shape[1]),
                           examples=examples, vocabulary=tuple(vocabulary))


@pytest.fixture
def moves():
    return prompts(torch.randint(1, 61, (3, 59), generator=torch.Generator().manual_seed(0)), words(8))


def test_prompts_of_the_models_own_task_fit(othello_dir, moves):
    check_fits(load_model(othello_dir), moves)


def test_natural_text_fits_where_its_token_ids_do(gpt2_dir):
    check_fits(load_model(gpt2_dir), prompts(torch.full((3, 24), 39), task="truth"))


def test_another_vocabulary_is_named_with_both_sizes_and_a_model_that_fits(gpt2_dir, othello_dir, moves, monkeypatch):
    monkeypatch.setattr(tasks, "reference_models", lambda: {"othello": othello_dir, "tiny": gpt2_dir})
    with pytest.raises(ValueError, match=r"model '.*gpt2-tiny0' has a vocabulary of 40 tokens, task 'othello' one "
                                         r"of 61: use --model othello$"):
        check_fits(load_model(gpt2_dir), moves)


def test_the_same_number_of_other_words_is_noticed(othello_dir, moves):
    swapped = list(moves.vocabulary)
    swapped[3], swapped[4] = swapped[4], swapped[3]
    with pytest.raises(ValueError, match="both have 61 tokens, but disagree on 2: token 3 is 'a3' to the model"):
        check_fits(load_model(othello_dir), dataclasses.replace(moves, vocabulary=tuple(swapped)))


@pytest.mark.parametrize("wrong, low, high", [(40, 0, 40), (-1, -1, 0)])
def test_token_ids_outside_the_vocabulary_are_refused(gpt2_dir, wrong, low, high):
    tokens = torch.zeros(3, 5, dtype=torch.long)
    tokens[1, 2] = wrong
    with pytest.raises(ValueError, match=f"has token ids from {low} to {high}, model .* knows 0 to 39"):
        check_fits(load_model(gpt2_dir), prompts(tokens))


def test_a_prompt_longer_than_the_context_is_refused(othello_dir, monkeypatch):
    monkeypatch.setattr(tasks, "reference_models", dict)
    with pytest.raises(ValueError, match="longest prompt of task 'othello' has 60 tokens, the context of model .* is "
                                         "59: shorten the prompts, or use a model trained on this task"):
        check_fits(load_model(othello_dir), prompts(torch.ones(3, 60, dtype=torch.long), words(8)))


def test_a_decoder_has_every_site_of_every_layer(othello_dir):
    model = load_model(othello_dir)
    assert len(available_sites(model)) == 2 * 7
    check_site(model, Site("resid_mid", 1))


def test_a_layer_that_is_not_there_is_answered_with_the_last_one(othello_dir):
    with pytest.raises(ValueError, match=r"no site resid_post\.2: its layers are 0 to 1; nearest: resid_post\.1$"):
        check_site(load_model(othello_dir), Site("resid_post", 2))


def test_parallel_blocks_have_no_resid_mid(neox_dir):
    model = load_model(neox_dir)
    check_site(model, Site("resid_post", 1))
    with pytest.raises(ValueError, match=r"no site resid_mid\.1: its blocks \(GPTNeoXForCausalLM\) have no resid_mid; "
                                         r"nearest: resid_pre\.1, resid_post\.1, attn_out\.1, mlp_out\.1, z\.1, "
                                         r"mlp_post\.1$"):
        check_site(model, Site("resid_mid", 1))


def test_the_hook_called_resid_mid_in_a_post_norm_encoder_is_another_sum(encoder_dir):
    model = load_model(encoder_dir)
    assert Site("resid_mid", 0).hook in model.hook_dict
    assert {site.stream for site in available_sites(model)} == {"resid_pre", "resid_post", "attn_out", "mlp_out",
                                                                "z", "mlp_post"}
    with pytest.raises(ValueError, match=r"BertForMaskedLM\) have no resid_mid"):
        check_site(model, Site("resid_mid", 0))
