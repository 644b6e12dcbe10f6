"""Concepts in the vocabulary of a real model: the word embeddings of a BERT, which are also its unembedding."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from probing import (
    CausalInnerProduct,
    category_hierarchy,
    category_separation,
    causal_inner_product,
    concept_cosines,
    project_pairs,
)


@pytest.fixture(scope="session")
def bert_words(bert_dir):
    """(d_vocab, d_model) embeddings, and the id of each single-token word."""
    with safe_open(bert_dir / "model.safetensors", "numpy") as file:
        name = next(k for k in file.keys() if k.endswith("word_embeddings.weight"))
        gamma = file.get_tensor(name)
    return gamma, json.loads((bert_dir / "tokenizer.json").read_text())["model"]["vocab"]


PAIRS = {
    "gender": "king queen,man woman,boy girl,father mother,son daughter,brother sister,uncle aunt,husband wife,"
              "actor actress,prince princess,he she,his her,grandfather grandmother,nephew niece,sir lady",
    "plural": "cat cats,dog dogs,car cars,house houses,tree trees,bird birds,book books,river rivers,city cities,"
              "country countries,student students,teacher teachers,window windows,door doors,song songs",
    "past": "walk walked,talk talked,play played,look looked,ask asked,call called,help helped,move moved,"
            "start started,open opened,turn turned,work worked,want wanted,need needed,use used",
    "country": "paris france,rome italy,berlin germany,madrid spain,tokyo japan,moscow russia,cairo egypt,"
               "athens greece,vienna austria,warsaw poland,dublin ireland,oslo norway,beijing china,delhi india",
}


def test_in_a_real_vocabulary_left_out_pairs_beat_random_pairs(bert_words):
    gamma, vocabulary = bert_words
    concepts = {name: np.array([[vocabulary[w] for w in pair.split()] for pair in text.split(",")])
                for name, text in PAIRS.items()}
    spaces = causal_inner_product(gamma), CausalInnerProduct.euclidean(gamma.shape[1])
    beats = project_pairs(spaces[0], gamma, concepts).groupby("concept")["beats"]
    assert beats.min().min() > 0.9 and beats.median().min() > 0.99
    causal, plain = (concept_cosines(space, gamma, concepts).query("concept < other")["cosine"].abs().mean()
                     for space in spaces)
    assert causal < 0.03 < plain  # the heat map is nearer to diagonal than that of the plain product


CATEGORIES = {
    "animal": "dog cat horse cow pig sheep goat lion tiger bear wolf fox deer rabbit mouse rat monkey elephant whale "
              "dolphin shark fish salmon eagle hawk owl crow duck goose chicken turkey swan snake lizard frog turtle "
              "spider bee ant butterfly beetle worm snail crab camel donkey mule squirrel bat bird",
    "country": "france italy germany spain japan russia egypt greece austria poland ireland norway sweden denmark "
               "finland china india pakistan iran iraq turkey israel brazil argentina chile peru mexico canada cuba "
               "kenya nigeria ghana ethiopia morocco australia portugal belgium hungary romania bulgaria serbia "
               "croatia ukraine thailand vietnam indonesia malaysia singapore",
    "profession": "doctor nurse lawyer teacher engineer architect carpenter farmer soldier sailor pilot driver cook "
                  "chef baker butcher priest bishop judge policeman actor singer dancer painter sculptor writer poet "
                  "journalist editor photographer scientist chemist physicist biologist historian philosopher "
                  "economist accountant banker merchant clerk secretary librarian mechanic miner fisherman surgeon",
}


def test_in_a_real_vocabulary_categories_find_their_held_out_words_and_shuffled_ones_do_not(bert_words):
    gamma, vocabulary = bert_words
    g = causal_inner_product(gamma).whiten(gamma, centre=True)
    categories = {name: np.array([vocabulary[w] for w in text.split()]) for name, text in CATEGORIES.items()}
    table = category_separation(g, categories)
    real, shuffled = (table[table["control"].isna() == is_real] for is_real in (True, False))
    assert real["auroc"].min() > 0.95 and (real["ci_low"] > real["others"] + 0.1).all()
    assert shuffled["auroc"].between(0.2, 0.8).all() and (shuffled["value"].abs() < 0.15).all()


KINDS = {
    "mammal": "dog cat horse cow pig sheep goat lion tiger bear wolf fox deer rabbit mouse rat monkey elephant whale",
    "bird": "bird eagle hawk owl crow duck goose chicken swan pigeon dove falcon raven robin sparrow parrot penguin",
    "fruit": "apple orange banana lemon grape peach pear cherry plum berry strawberry mango coconut olive",
    "tree": "oak pine maple cedar elm willow birch ash palm fir spruce",
}


def test_in_a_real_vocabulary_what_a_kind_adds_is_orthogonal_to_its_parent_and_not_to_another(bert_words):
    gamma, vocabulary = bert_words
    g = causal_inner_product(gamma).whiten(gamma, centre=True)
    categories = {name: np.array([vocabulary[w] for w in text.split() if w in vocabulary])
                  for name, text in KINDS.items()}
    categories["animal"] = np.concatenate([categories["mammal"], categories["bird"]])
    categories["plant"] = np.concatenate([categories["fruit"], categories["tree"]])
    parents = {"mammal": "animal", "bird": "animal", "fruit": "plant", "tree": "plant"}
    table = category_hierarchy(g, categories, parents).assign(control=lambda t: t["control"].fillna("none"))
    cosine = table["cosine"].abs().groupby(table["control"]).agg(["mean", "min"])
    assert cosine.loc["none", "mean"] < 0.05 < 0.4 < cosine.loc["random_parent", "min"]
    # chance gives that too, for children are part of their parents: what tells words from chance is their separation
    assert cosine.loc["shuffled_unembedding", "mean"] < 0.25
