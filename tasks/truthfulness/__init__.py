"""Truthfulness: true and false statements in plain text, for any Hugging Face language model.

    prompts = tasks.truthfulness.load("cities", tokenizer)                   # probed at the full stop
    prompts = tasks.truthfulness.load(["cities", "neg_cities"], tokenizer, at="content")
    prompts = tasks.truthfulness.load("my_statements.csv", tokenizer)        # columns statement, label (1 true)
    tasks.truthfulness.DATASETS                                              # the published ones
"""

from ._datasets import DATASETS
from ._load import load

__all__ = ["DATASETS", "load"]
