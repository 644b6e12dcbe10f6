"""The decoy world: what its prompts and cases say, and that its models carry the latents where they were planted."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from tasks import decoy
from tasks.decoy import train

MODELS = ("decoy", "decoy-1", "decoy-2")


def test_prompts_read_as_text_and_their_labels_are_what_they_ask():
    prompts = decoy.load(n=50)
    for row in range(50):
        text = [decoy.WORDS[t] for t in prompts.tokens[row, : prompts.lengths[row]]]
        assert text[-1] == "=" and 3 <= len(text) - 2 <= 6 and text[0] != text[-3]
        end, mark = (prompts.labels(scheme)[row, 0] for scheme in ("end", "mark"))
        assert text[-2] == decoy.ENDS[end] + decoy.MARKS[mark]
        assert prompts.examples["pos"][row] == len(text) - 1


def test_the_first_prompts_do_not_depend_on_how_many_are_asked_for():
    whole = decoy.sequences(3000, seed=3)
    part = decoy.sequences(1100, seed=3, start=1000)
    assert all(np.array_equal(part[name], whole[name][1000:2100]) for name in whole)


def test_changing_the_end_changes_the_answer_and_changing_the_mark_does_not():
    flips, decoys = decoy.cases("end", n=200), decoy.cases("mark", n=200)
    assert (flips.right_before.sum(1) == 1).all() and not (flips.right_before & flips.right_after).any()
    assert np.array_equal(decoys.right_before, decoys.right_after)
    for cases in (flips, decoys):
        assert (cases.cases["was"] != cases.cases["becomes"]).all()
        assert not set(cases.cases["group"][cases.cases["split"] == "choose"]) & set(
            cases.cases["group"][cases.cases["split"] == "report"])
    with pytest.raises(ValueError, match="'end' .* or 'mark' .*, not 'case'"):
        decoy.cases("case")


@pytest.mark.parametrize("name", MODELS)
def test_the_planted_direction_decides_the_answer_and_the_decoy_is_only_readable(name):
    folder = tasks.reference_models()[name]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    truth = decoy.planted(name)
    assert abs(float(truth["end"] @ truth["mark"])) < 1e-6
    prompts = decoy.load(n=600)
    rows, last = torch.arange(600), prompts.lengths - 1
    end, mark = (torch.from_numpy(prompts.labels(scheme)[:, 0].copy()) for scheme in ("end", "mark"))
    ends = torch.stack([prompts.tokens[:, 0], prompts.tokens[rows, last - 2]], 1)

    opposite = torch.stack([((end != e) & (mark != k)).nonzero()[0, 0] for e, k in zip(end, mark, strict=True)])

    def answers(q=None):
        """Share of prompts answered right, and for the other end, after the component along `q` is taken from a prompt
        that asks for the other end and has the other mark."""
        seen = []

        def hook(module, args, output):
            x = output[0] if isinstance(output, tuple) else output
            at = x[rows, last]
            seen.append(at.clone())
            if q is not None:
                x[rows, last] = at + ((at[opposite] - at) @ q)[:, None] * q

        handle = model.transformer.h[decoy.PLANTED_LAYER].register_forward_hook(hook)
        with torch.inference_mode():
            given = model(prompts.tokens).logits[rows, last].argmax(-1)
        handle.remove()
        return (given == ends[rows, end]).float().mean(), (given == ends[rows, 1 - end]).float().mean(), seen[0]

    right, _, x = answers()
    assert right > 0.99
    for scheme, codes in (("end", end), ("mark", mark)):
        read = x @ truth[scheme]
        assert ((read > 0) == codes).float().mean() > 0.99
    assert answers(truth["end"])[1] > 0.99  # enough: the answer follows
    assert answers(truth["mark"])[0] > 0.99  # and nothing follows the decoy


def test_planted_directions_of_what_is_no_decoy_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no planted directions for 'othello'"):
        decoy.planted("othello")
    with pytest.raises(ValueError, match="planted.safetensors"):
        decoy.planted(tmp_path)


def test_training_writes_a_hugging_face_directory_with_its_directions_and_card(tmp_path):
    metrics = train.fit(tmp_path, seed=5, steps=2, log=lambda line: None)
    assert set(metrics) >= {"accuracy", "follows", "stays", "unmoved", "end", "mark"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("k b m a first! =", add_special_tokens=False)["input_ids"]
    assert [decoy.WORDS[i] for i in ids] == ["k", "b", "m", "a", "first!", "="]
    assert AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([ids])).logits.shape == (1, 6, len(decoy.WORDS))
    assert torch.equal(decoy.planted(tmp_path)["end"], train.directions(5)["end"])
    assert "Held out, 2,048 prompts" in (tmp_path / "README.md").read_text()
