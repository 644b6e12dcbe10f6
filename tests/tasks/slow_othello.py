"""Othello written to be obviously right: a list of squares, walked one direction and one square at a time.

The oracle of the tests of the vectorised engine; it shares no code with it.
"""

from functools import cache

DIRECTIONS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
OTHER = {"b": "w", "w": "b"}


def start(size):
    board = ["."] * size**2
    low, high = size // 2 - 1, size // 2
    board[size * low + low] = board[size * high + high] = "w"
    board[size * low + high] = board[size * high + low] = "b"
    return board


@cache
def rays(n_squares):
    """For every square, the squares from its neighbour to the edge in each direction."""
    size = round(n_squares**0.5)
    found = []
    for square in range(n_squares):
        found.append([])
        for down, right in DIRECTIONS:
            ray, row, col = [], square // size + down, square % size + right
            while 0 <= row < size and 0 <= col < size:
                ray.append(row * size + col)
                row, col = row + down, col + right
            found[-1].append(ray)
    return found


def turned_by(board, square, colour):
    """Squares that `colour` turns over by playing on `square`; none if it is taken."""
    if board[square] != ".":
        return []
    turned = []
    for ray in rays(len(board))[square]:
        run = []
        for s in ray:
            if board[s] == OTHER[colour]:
                run.append(s)
                continue
            if board[s] == colour:
                turned += run
            break
    return turned


def legal(board, colour):
    return [square for square in range(len(board)) if turned_by(board, square, colour)]


def put(board, square, colour):
    """Play a move in place; the squares it turned over."""
    turned = turned_by(board, square, colour)
    for s in [square, *turned]:
        board[s] = colour
    return turned


def next_player(board, last):
    """Who moves after `last`: the other one, or `last` again if that one has to pass, or None at the end."""
    if legal(board, OTHER[last]):
        return OTHER[last]
    return last if legal(board, last) else None


def discs(board, colour):
    return [square for square, disc in enumerate(board) if disc == colour]


def bits(squares):
    return sum(1 << s for s in squares)


def history(moves, size):
    """After every move: (black, white, turned, legal) as integers, who moved, who moves next."""
    board, mover, states = start(size), "b", []
    for square in moves:
        assert square in legal(board, mover), (square, mover)
        turned = put(board, square, mover)
        following = next_player(board, mover)
        states.append((bits(discs(board, "b")), bits(discs(board, "w")), bits(turned),
                       bits(legal(board, following)) if following else 0, mover, following))
        mover = following
    return states


def position(moves, size):
    """The board after some moves, and who moves next."""
    board, mover = start(size), "b"
    for square in moves:
        put(board, square, mover)
        mover = next_player(board, mover)
    return board, mover


def all_endings(squares, size):
    """Every (black, white, next player) that some legal order of playing exactly these squares ends in."""
    found = set()

    def go(board, mover, left):
        if not left:
            found.add((bits(discs(board, "b")), bits(discs(board, "w")), mover))
        elif mover:
            for square in set(left) & set(legal(board, mover)):
                after = list(board)
                put(after, square, mover)
                go(after, next_player(after, mover), left - {square})

    go(start(size), "b", frozenset(squares))
    return found
