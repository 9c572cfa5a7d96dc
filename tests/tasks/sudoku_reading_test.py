"""Grids in answers, however they are drawn, and what is no grid or not the answer."""

import pytest

from tests.tasks.sudoku_test import PUZZLE, SOLUTION, points_of

ROWS = [SOLUTION[place : place + 4] for place in (0, 4, 8, 12)]
DRAWN = (
    "1234\n3412\n\n2143\n4321",
    "12|34\n34|12\n--+--\n21|43\n43|21",
    "| 1 2 | 3 4 |\n| 3 4 | 1 2 |\n|-----+-----|\n| 2 1 | 4 3 |\n| 4 3 | 2 1 |",
    "| 1 | 2 | 3 | 4 |\n|---|---|---|---|\n| 3 | 4 | 1 | 2 |\n| 2 | 1 | 4 | 3 |\n| 4 | 3 | 2 | 1 |",
    "| | c1 | c2 | c3 | c4 |\n|:-|-|-|-|-|\n| r1 | 1 | 2 | 3 | 4 |\n| r2 | 3 | 4 | 1 | 2 |\n"
    "| r3 | 2 | 1 | 4 | 3 |\n| r4 | 4 | 3 | 2 | 1 |",
    "[1, 2, 3, 4]\n[3, 4, 1, 2]\n[2, 1, 4, 3]\n[4, 3, 2, 1]",
    "[[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]]",
    "[\n  [1, 2, 3, 4],\n  [3, 4, 1, 2],\n  [2, 1, 4, 3],\n  [4, 3, 2, 1]\n]",
    "\\begin{bmatrix} 1 & 2 & 3 & 4 \\\\ 3 & 4 & 1 & 2 \\\\"
    " 2 & 1 & 4 & 3 \\\\ 4 & 3 & 2 & 1 \\end{bmatrix}",
    "\\[\n\\begin{array}{|cc|cc|}\n\\hline\n1 & 2 & 3 & 4 \\\\\n3 & 4 & 1 & 2 \\\\ \\hline\n"
    "2 & 1 & 4 & 3 \\\\\n4 & 3 & 2 & 1 \\\\\n\\hline\n\\end{array}\n\\]",
    "Row 1: 1 2 3 4\nRow 2: 3 4 1 2\nRow 3: 2 1 4 3\nRow 4: 4 3 2 1",
    "- **Row 1**: 1, 2, 3, 4\n- **Row 2**: 3, 4, 1, 2\n"
    "- **Row 3**: 2, 1, 4, 3\n- **Row 4**: 4, 3, 2, 1",
    "R1: 1234\nR2: 3412\nR3: 2143\nR4: 4321",
    "First row: 1234\nSecond row: 3412\nThird row: 2143\nFourth row: 4321",
    "1. 1 2 3 4\n2. 3 4 1 2\n3. 2 1 4 3\n4. 4 3 2 1",
    "┌───┬───┐\n│1 2│3 4│\n│3 4│1 2│\n├───┼───┤\n│2 1│4 3│\n│4 3│2 1│\n└───┴───┘",
    "+---+---+\n|1 2|3 4|\n|3 4|1 2|\n+---+---+\n|2 1|4 3|\n|4 3|2 1|\n+---+---+",
    "12343412\n21434321",
    "1,2,3,4\r\n3,4,1,2\r\n2,1,4,3\r\n4,3,2,1",
    "1234/3412/2143/4321",
    "[['1', '2', '3', '4'], ['3', '4', '1', '2'], ['2', '1', '4', '3'], ['4', '3', '2', '1']]",
    '["1234", "3412", "2143", "4321"]',
    '{"grid": [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]}',
    "grid = [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]",
    "Row 1 -> 1234\nRow 2 -> 3412\nRow 3 -> 2143\nRow 4 -> 4321",
    "Row one: 1 2 3 4.\nRow two: 3 4 1 2.\nRow three: 2 1 4 3.\nRow four: 4 3 2 1.",
    "1st row: 1234\n2nd row: 3412\n3rd row: 2143\n4th row: 4321",
    "1 - 2 - 3 - 4\n3 - 4 - 1 - 2\n2 - 1 - 4 - 3\n4 - 3 - 2 - 1",
    "\uff11\uff12\uff13\uff14\n3412\n2143\n4321",
    "<table><tr><td>1</td><td>2</td><td>3</td><td>4</td></tr>\n<tr><td>3</td><td>4</td><td>1</td>"
    "<td>2</td></tr>\n<tr><td>2</td><td>1</td><td>4</td><td>3</td></tr>\n<tr><td>4</td><td>3</td>"
    "<td>2</td><td>1</td></tr></table>",
    "1234\n3412\n2143\n4321\n\n1234",
    "(1, 2, 3, 4), (3, 4, 1, 2), (2, 1, 4, 3), (4, 3, 2, 1)",
    "> 1 2 3 4\n> 3 4 1 2\n> 2 1 4 3\n> 4 3 2 1",
    "np.array([[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]])",
    "x = np.array([\n [1, 2, 3, 4],\n [3, 4, 1, 2],\n [2, 1, 4, 3],\n [4, 3, 2, 1]], dtype=int)",
    "torch.tensor([(1, 2, 3, 4), (3, 4, 1, 2), (2, 1, 4, 3), (4, 3, 2, 1)])",
    '{"row1": [1,2,3,4], "row2": [3,4,1,2], "row3": [2,1,4,3], "row4": [4,3,2,1]}',
    '{\n "Row 1": [1,2,3,4],\n "Row 2": [3,4,1,2],\n "Row 3": [2,1,4,3],\n "Row 4": [4,3,2,1]\n}',
    '{"row1": "1234",\n"row2": "3412",\n"row3": "2143",\n"row4": "4321"}',
    "Row 1 (top): 1 2 3 4\nRow 2: 3 4 1 2\nRow 3: 2 1 4 3\nRow 4 (bottom): 4 3 2 1",
    "Top row: 1234\nSecond row: 3412\nThird row: 2143\nBottom row: 4321",
    *(
        "\\begin{array}{cc|cc}\n"
        + "\\\\ \\hline\n".join(" & ".join(cell % digit for digit in row) for row in ROWS)
        + "\n\\end{array}"
        for cell in (r"\textbf{%s}", r"\color{red}{%s}", r"{\color{blue!50} %s}", r"\mathbf %s")
    ),
    "1234\n3412\n2143\n4321\n\nColumns: 1324 2413 3142 4231",
    "Answer:\n1234\n3412\n2143\n4321\n\nColumns:\n1324\n2413\n3142\n4231\nAll differ.",
    "The solved puzzle:\n1234\n3412\n2143\n4321\n\nCheck the boxes:\n1243\n3421\n2134\n4312",
)


@pytest.mark.parametrize(
    "text, right",
    [
        (f"<answer>{SOLUTION}</answer>", 8),
        ("<answer>\n1234\n3412\n2143\n4321\n</answer>", 8),
        ("<answer>1 2 3 4 | 3 4 1 2 | 2 1 4 3 | 4 3 2 1</answer>", 8),
        (f"so it is {SOLUTION}.", 8),
        ("1|2|3|4\n3|4|1|2\n2|1|4|3\n4|3|2|1", 8),
        (f"<answer>{'2' * 16}</answer><answer>{SOLUTION}</answer>", 8),
        (f"<answer>row by row, 4 rows: {SOLUTION}</answer>", 8),
        (f"<answer>{SOLUTION}</answer> or {'2' * 16}", 8),
        ("<answer>1224341221434321</answer>", 7),  # one empty cell wrong
        ("<answer>1234341221434312</answer>", 6),  # besides, a given cell changed
        (f"<answer>{PUZZLE}</answer>", 0),
        (f"<answer>{SOLUTION}1</answer>", 0),  # 17 digits say nothing
        (f"<answer>{SOLUTION[:15]}</answer>", 0),
        *((drawn, 8) for drawn in DRAWN),
        *((f"So:\n<answer>\n{drawn}\n</answer>", 8) for drawn in DRAWN),
        *((f"It was\n{'1004':}\n0410\n2100\n0320\n and is\n{drawn}\n Done.", 8) for drawn in DRAWN),
        *((drawn.replace("2", "3"), 4) for drawn in DRAWN[:3]),
        (f"{SOLUTION}<|eot_id|>{'2' * 16}", 8),
        (f"<answer>{SOLUTION}<|im_end|></answer>", 8),
        ("1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2", 0),
        ("I have 1 2 3 4 apples\n3 4 1 2 pears\n2 1 4 3 figs\n4 3 2 1 nuts", 0),
        ("1 2 3 4\n3 4 1 2\nand then\n2 1 4 3\n4 3 2 1", 0),
        (f"<answer></answer> {SOLUTION}", 0),  # what the tags hold is the answer
        (f"<answer>{SOLUTION.translate(str.maketrans('1234', '१२३४'))}</answer>", 0),
        ("The columns:\n" + "\n".join(ROWS), 8),  # nothing else is said
        ("\n".join(ROWS) + "\n\nNo, it is\n" + "\n".join(["2222"] * 4), 0),
        ("Columns:\n" + "\n".join(ROWS) + "\n\nThe answer:\n" + "\n".join(["2222"] * 4), 0),
        ('{"row1": [1,2,3,4], "row2": [3,4,1,2], "row3": [2,1,4,3]}', 0),
        ("np.array([[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2]])", 0),
        ("Row 1 (top): 1 2 3\nRow 2: 3 4 1 2\nRow 3: 2 1 4 3\nRow 4: 4 3 2 1", 0),
        ("", 0),
    ],
)
def test_mended_cells(text, right):
    assert PUZZLE.count("0") == 8
    assert points_of(text) == (right, 8)
