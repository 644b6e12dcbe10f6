"""Space and time: names of places and works in plain text, with their coordinates and dates, for any Hugging Face
language model.

    prompts = tasks.space_time.load("world_place", tokenizer, prompt="coords", n=5000)
    prompts = tasks.space_time.load("my_places.csv", tokenizer, name="town", block="county")
    france = tasks.space_time.hold_out(prompts, "France")                 # a country that training never sees
    tasks.space_time.great_circle_km(true, predicted)                     # (longitude, latitude) in degrees
    tasks.space_time.proximity_error(true, predicted, tasks.space_time.great_circle_km)
"""

from ._datasets import DATASETS
from ._distance import great_circle_km, proximity_error, years_apart
from ._load import hold_out, load

__all__ = ["DATASETS", "great_circle_km", "hold_out", "load", "proximity_error", "years_apart"]
