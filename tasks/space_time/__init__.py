"""Space and time: what a model knows of where places lie and when things happened.

    prompts = tasks.space_time.load()                                     # the small reference world: 200 places
    prompts = tasks.space_time.load(prompt="gap")                         # and its 150 events
    cases = tasks.space_time.cases("place", n=500)                        # a place to move; answers before, after
    tasks.space_time.behaviour(model).groupby("relation")["within_one"].mean()

Names of places and works in plain text, with their coordinates and dates, for any Hugging Face language model:

    prompts = tasks.space_time.load("world_place", tokenizer, prompt="coords", n=5000)
    prompts = tasks.space_time.load("my_places.csv", tokenizer, name="town", block="county")
    france = tasks.space_time.hold_out(prompts, "France")                 # a country that training never sees
    tasks.space_time.great_circle_km(true, predicted)                     # (longitude, latitude) in degrees
    tasks.space_time.proximity_error(true, predicted, tasks.space_time.great_circle_km)
"""

from ._behaviour import behaviour
from ._cases import cases, pairs
from ._datasets import DATASETS
from ._distance import great_circle_km, plane_distance, proximity_error, years_apart
from ._load import hold_out, load
from ._shown import picture
from ._world import RELATIONS, answers, entities

__all__ = ["DATASETS", "RELATIONS", "answers", "behaviour", "cases", "entities", "great_circle_km", "hold_out", "load",
           "pairs", "picture", "plane_distance", "proximity_error", "years_apart"]
