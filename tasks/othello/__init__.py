"""Othello: a game whose moves are the tokens and whose board is the world state to be found inside the model.

    prompts = tasks.othello.load(n=2000, seed=0)              # random games, the board after every move
    prompts = tasks.othello.prompts_from_games([["c4", "c3", "d3"], ...])
    cases = tasks.othello.cases("published", edit="flip")     # boards with one disc to change inside the model
"""

from ._cases import board_codes, board_size, cases, follow, ideal_null, to_move
from ._engine import IllegalMove, Replay, legal_moves, random_games, replay, square_name
from ._labels import baseline_predictions, baselines, load, prompts_from_games
from ._pictures import picture

__all__ = ["IllegalMove", "Replay", "baseline_predictions", "baselines", "board_codes", "board_size", "cases",
           "follow", "ideal_null", "legal_moves", "load", "picture", "prompts_from_games", "random_games", "replay",
           "square_name", "to_move"]
