"""Truthfulness: true and false statements, in a small world with reference models and in plain text for any model.

    prompts = tasks.truthfulness.load(n=2000, seed=0)                        # the reference world, read at the object
    cases = tasks.truthfulness.cases("false_to_true", n=500)                 # a statement that shall count as true
    tasks.truthfulness.behaviour(model).mean()                               # how far a model trusts what it has read

    prompts = tasks.truthfulness.load("cities", tokenizer)                   # plain text, probed at the full stop
    prompts = tasks.truthfulness.load(["cities", "neg_cities"], tokenizer, at="content")
    prompts = tasks.truthfulness.load("my_statements.csv", tokenizer)        # columns statement, label (1 true)
    tasks.truthfulness.DATASETS                                              # the published ones
    prompts = tasks.truthfulness.questions("TruthfulQA.csv", tokenizer)      # probed at the exact answer
    pairs = tasks.truthfulness.few_shot_pairs("sp_en_trans", tokenizer)      # true or false? for patching
"""

from ._behaviour import behaviour
from ._cases import cases, pairs
from ._datasets import DATASETS
from ._few_shot import few_shot_pairs
from ._labels import world
from ._load import load
from ._questions import questions
from ._world import bayes, documents

__all__ = ["DATASETS", "bayes", "behaviour", "cases", "documents", "few_shot_pairs", "load", "pairs", "questions",
           "world"]
