"""Othello written to be obviously right: a list of lists, one square and one direction at a time.

The oracle of the tests of the vectorised engine; it shares no code with it.
"""

DIRECTIONS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
OTHER = {"b": "w", "w": "b"}


def start(size):
    board = [["." for _ in range(size)] for _ in range(size)]
    low, high = size // 2 - 1, size // 2
    board[low][low] = board[high][high] = "w"
    board[low][high] = board[high][low] = "b"
    return board


def turned_by(board, square, colour):
    """Squares that `colour` turns over by playing on `square`; none if it is taken."""
    size = len(board)
    row, col = divmod(square, size)
    if board[row][col] != ".":
        return []
    turned = []
    for down, right in DIRECTIONS:
        run = []
        r, c = row + down, col + right
        while 0 <= r < size and 0 <= c < size and board[r][c] == OTHER[colour]:
            run.append(r * size + c)
            r, c = r + down, c + right
        if run and 0 <= r < size and 0 <= c < size and board[r][c] == colour:
            turned += run
    return turned


def legal(board, colour):
    return [square for square in range(len(board) ** 2) if turned_by(board, square, colour)]


def put(board, square, colour):
    """Play a move in place; the squares it turned over."""
    turned = turned_by(board, square, colour)
    for s in [square, *turned]:
        board[s // len(board)][s % len(board)] = colour
    return turned


def next_player(board, last):
    """Who moves after `last`: the other one, or `last` again if that one has to pass, or None at the end."""
    if legal(board, OTHER[last]):
        return OTHER[last]
    return last if legal(board, last) else None


def discs(board, colour):
    return [r * len(board) + c for r, row in enumerate(board) for c, disc in enumerate(row) if disc == colour]


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
                after = [row[:] for row in board]
                put(after, square, mover)
                go(after, next_player(after, mover), left - {square})

    go(start(size), "b", frozenset(squares))
    return found
