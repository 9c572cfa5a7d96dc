"""The user's own prompts, each of a domain: what distillation needs, which asks for no answers
(specs/opdlm.md section 2.1).

A record is a dict with "question", "domain" (of `DOMAINS`) and "answer" (the final answer as text,
"" where unknown; only held-out records are scored by it). N answers.
"""

from collections.abc import Mapping, Sequence
import os
import re
from typing import Any, NoReturn

import numpy as np

from gdsd_jax.rows import read_rows

Record = Mapping[str, Any]

RUNS_PROGRAMS = False
DOMAINS = {  # what follows the question, as the published models were trained
    "math": "\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "science": (
        "\nPlease show your choice in the answer field with only the choice letter, "
        'e.g., "answer": "C".'
    ),
    "code": "",
    "chat": "",
}


def build(data_dir: str | os.PathLike) -> NoReturn:
    """ValueError: there are no prompts of our own."""
    raise ValueError(
        "this task's prompts are yours: add data_file=FILE.jsonl and init_from=DIR to the config"
    )


def read_jsonl(path: str | os.PathLike, *, form: str = "full") -> Sequence[Record]:
    """Records of a file, one JSON object a line with `question`, `domain` and perhaps `answer`;
    local or gs://.

    Raises ValueError naming `path:line` and the mend for the first bad row.
    """
    return [parse_row(row, where) for where, row in read_rows(path, " with question and domain")]


def parse_row(row: Any, where: str) -> dict[str, str]:
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("question"), str)
        or not row["question"].strip()
    ):
        raise ValueError(f"{where}: question is not a non-empty string: give the prompt in words")
    if row.get("domain") not in DOMAINS:
        raise ValueError(
            f"{where}: domain={row.get('domain')!r}: choose one of {', '.join(DOMAINS)}"
        )
    return {
        "question": row["question"],
        "domain": row["domain"],
        "answer": str(row.get("answer") or ""),
    }


def messages(record: Record) -> list[dict[str, str]]:
    """The prompt, in training and in evaluation alike; no system turn."""
    return [{"role": "user", "content": record["question"] + DOMAINS[record["domain"]]}]


def completion(record: Record) -> NoReturn:
    """ValueError: prompts have no worked answers to learn from."""
    raise ValueError("prompts have no solutions to fine-tune on: set sft.steps=0")


def score(records: Sequence[Record], texts: Sequence[str], sandbox: Any) -> dict[str, np.ndarray]:
    """{"format": a final answer is there, "tests": it is the record's, character for character},
    float32 [N], 0 or 1."""
    found = [final_answer(text) for text in texts]
    right = [
        bool(record["answer"]) and plain(record["answer"]) == answer
        for record, answer in zip(records, found)
    ]
    return {
        "format": np.array([bool(answer) for answer in found], np.float32),
        "tests": np.array(right, np.float32),
    }


def final_answer(text: str) -> str:
    """What the last \\boxed{} holds, braces balanced, else the letter of the last `"answer": "C"`,
    else ""."""
    if (start := text.rfind("\\boxed{")) >= 0:
        depth, begin = 1, start + len("\\boxed{")
        for end in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return plain(text[begin:end])
    letters = re.findall(r'"?answer"?\s*(?::|is)\s*"?([A-Z])\b', text)
    return letters[-1] if letters else ""


def plain(answer: str) -> str:
    return answer.strip().strip("$").replace(" ", "")
