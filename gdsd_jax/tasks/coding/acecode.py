"""The hard part of AceCode-87K, as the released recipes for coding train on it.

Rows of AceCode hold "inferences": programs of several models, with the share of tests that each
passed ("pass_rate"). Kept are problems whose mean share over `MODELS` is at most the 20th
percentile of all problems, and whose standard deviation is at least the 40th.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MODELS = ("qwen_coder_2.5", "llama3_instruct")
MOST_MEAN, LEAST_SPREAD = 20, 40  # percentiles

_EXTRA = ("rates", "head")


def of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `hard` needs of a row: "rates" of the models' programs, "head" of the best one.

    Raises:
      ValueError: no inferences, or others than AceCode's; one line.
    """
    mend = "give AceCode's own rows, or leave options.hard out"
    found = row.get("inferences")
    if not isinstance(found, list) or not found:
        raise ValueError(f"inferences is missing: {mend}")
    for number, one in enumerate(found):
        texts = ("model_name", "completion")
        named = isinstance(one, Mapping) and all(isinstance(one.get(key), str) for key in texts)
        rate = one.get("pass_rate") if named else None
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ValueError(
                f"inferences[{number}] has not model_name, completion and pass_rate: {mend}"
            )
    best = max(found, key=lambda one: one["pass_rate"])
    head = best["completion"].split(":\n")[0].strip()
    rates = [float(one["pass_rate"]) for one in found if one["model_name"] in MODELS]
    return {"rates": rates, "head": head if head.startswith("def ") else ""}


def hard(records: Sequence[Mapping[str, Any]], twins: bool) -> list[dict[str, Any]]:
    """The hard records in order, without what `of_row` added.

    Args:
      records: of all problems, since the limits are percentiles. One without a rate of `MODELS`
        is left out.
      twins: put behind each question that does not say "you" the same one as the documentation of
        a function to complete, as the recipes do. The two are one problem: a split by record may
        train on one and hold the other out.
    """
    known = [record for record in records if record.get("rates")]
    if not known:
        return []
    mean_N = np.array([np.mean(record["rates"]) for record in known])
    spread_N = np.array([np.std(record["rates"]) for record in known])
    kept_N = mean_N <= np.percentile(mean_N, MOST_MEAN)
    kept_N &= spread_N >= np.percentile(spread_N, LEAST_SPREAD)
    found = []
    for record, kept in zip(known, kept_N):
        if kept:
            plain = {key: value for key, value in record.items() if key not in _EXTRA}
            found.append(plain)
            if twins and record["head"] and "you" not in record["question"].lower():
                found.append(plain | {"question": _as_documentation(record)})
    return found


def _as_documentation(record: Mapping[str, Any]) -> str:
    """The question inside of a function that is to be completed."""
    lines = [f"{record['head']}:", '    """', f"    {record['question']}", '    """']
    return "\n".join(["Complete this function:", "```", *lines, "```"]) + "\n"
