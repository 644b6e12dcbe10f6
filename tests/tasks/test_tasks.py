"""What holds for every task, and how a task is found."""

import subprocess
import sys

import pytest
from tiny_tokenizers import tiny

import tasks

SMALL = {"decoy": dict(n=60), "maze": dict(n=60), "othello": dict(n=40)}
TEXT = {"truthfulness": "statement,label\n" + "".join(f"City{i} is in Russia.,{i % 2}\n" for i in range(60)),
        "space_time": "name,longitude,latitude\n" + "".join(f"City{i},{3 * i},{i}\n" for i in range(60))}


@pytest.fixture
def small(tmp_path):
    """Arguments that make a task small; a task of real text gets a table of its own, and a tokenizer."""
    def arguments(name: str) -> dict:
        if name not in TEXT:
            return SMALL.get(name, {})
        (tmp_path / "table.csv").write_text(TEXT[name])
        return dict(dataset=tmp_path / "table.csv", tokenizer=tiny("byte-level"))

    return arguments


def test_othello_is_available_and_private_modules_are_not():
    assert "othello" in tasks.available()
    assert not [name for name in tasks.available() if name.startswith("_")]


@pytest.mark.parametrize("name", tasks.available())
def test_every_task_loads_prompts_whose_groups_never_straddle_splits(name, small):
    prompts = tasks.load(name, **small(name))
    assert isinstance(prompts, tasks.LabelledPrompts)
    assert prompts.task == (f"{name}-table" if name in TEXT else name)
    splits = prompts.examples.groupby("group")["split"].nunique()
    assert (splits == 1).all()
    assert set(prompts.examples["split"]) == {"train", "validation", "test"}
    for scheme, codes in prompts.classes.items():
        assert set(prompts.labels(scheme).ravel().tolist()) <= set(range(len(codes)))
    for scheme, shortcuts in prompts.shortcuts.items():
        for shortcut in shortcuts:
            assert prompts.targets(shortcut) == prompts.targets(scheme)


@pytest.mark.parametrize("name", tasks.available())
def test_the_same_seed_gives_the_same_prompts(name, small):
    first, second = (tasks.load(name, **small(name)) for _ in range(2))
    assert first.tokens.equal(second.tokens)
    assert first.examples.equals(second.examples)


def test_an_unknown_task_names_the_nearest_one():
    with pytest.raises(ValueError, match="no task 'otelo'; did you mean 'othello'.* Available: .*othello"):
        tasks.load("otelo")
    with pytest.raises(ValueError, match="no task '_prompts'"):
        tasks.load("_prompts")


def test_every_public_name_exists_and_no_other():
    for name in tasks.__all__:
        assert getattr(tasks, name) is not None
        assert name in dir(tasks)
    with pytest.raises(AttributeError, match="'tasks' has no attribute 'lode'"):
        tasks.lode  # noqa: B018


def test_names_and_reference_models_are_listed_without_torch_or_pandas():
    code = ("import sys, tasks; tasks.available(); tasks.reference_models(); "
            "print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_reference_models_are_hugging_face_directories():
    for name, folder in tasks.reference_models().items():
        assert folder.name == name
        assert (folder / "model.safetensors").exists()


def test_labelled_prompts_refuse_what_does_not_fit():
    good = tasks.load("othello", n=20, size=4)
    parts = dict(task="t", tokens=good.tokens, lengths=good.lengths)
    with pytest.raises(ValueError, match="examples lacks .'split'."):
        tasks.LabelledPrompts(**parts, examples=good.examples.drop(columns="split"))
    with pytest.raises(ValueError, match="split must be one of .* found .'dev'."):
        tasks.LabelledPrompts(**parts, examples=good.examples.assign(split="dev"))
    with pytest.raises(ValueError, match="example 0 probes position 99 of prompt 0, which is padding"):
        tasks.LabelledPrompts(**parts, examples=good.examples.assign(pos=99))
    with pytest.raises(KeyError, match="no label scheme 'colour' in task 'othello-4x4'"):
        good.labels("colour")
    with pytest.raises(ValueError, match="split must be one of .* not 'dev'"):
        good.rows("dev")


def test_a_split_needs_three_groups_and_deals_them_by_share():
    import numpy as np

    with pytest.raises(ValueError, match="at least 3 groups, there are 2"):
        tasks.split_by_group(np.array(["a", "b", "a"]))
    split = tasks.split_by_group(np.arange(1000) // 2, seed=3)
    assert {name: (split == name).mean() for name in set(split)} == {"train": 0.7, "validation": 0.1, "test": 0.2}
    assert (split[::2] == split[1::2]).all()
    assert (split != tasks.split_by_group(np.arange(1000) // 2, seed=4)).any()
