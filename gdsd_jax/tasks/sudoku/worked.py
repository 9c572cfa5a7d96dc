"""The way to a solution, cell after cell, as a text to show."""

from gdsd_jax.tasks.sudoku.problems import GROUPS


def steps(puzzle: str, solution: str) -> str:
    """One line for each empty cell, in an order in which most have but one digit left, and then
    the grid, row by row."""
    grid, lines = list(puzzle), []
    while "0" in grid:
        empty = [cell for cell in range(len(grid)) if grid[cell] == "0"]
        cell = min(empty, key=lambda cell: len(left(grid, cell)))
        sure = len(left(grid, cell)) == 1
        grid[cell] = solution[cell]
        reason = "is the only digit left" if sure else "leads to a solution"
        lines.append(f"Row {cell // 4 + 1}, column {cell % 4 + 1}: {grid[cell]} {reason}.")
    rows = [solution[start : start + 4] for start in range(0, 16, 4)]
    return "\n".join([*lines, "The grid:", *rows])


def left(grid: list[str], cell: int) -> set[str]:
    """The digits that no cell of the same row, column or box holds."""
    seen = {grid[other] for group in GROUPS if cell in group for other in group}
    return set("1234") - seen
