"""Finds what stands between <answer> and </answer>, in time linear in the text."""

BEGIN, END = "<answer>", "</answer>"


def last_of(text: str) -> str | None:
    """The content of the last closed pair of tags, read from the left; None without one.

    As a search for `<answer>(.*?)</answer>` that goes on behind each hit: a second <answer> before
    the next </answer> is content.
    """
    last, place = None, 0
    while True:
        begin = text.find(BEGIN, place)
        end = -1 if begin < 0 else text.find(END, begin + len(BEGIN))
        if end < 0:
            return last
        last, place = text[begin + len(BEGIN) : end], end + len(END)


def first_of(text: str) -> str | None:
    """The content of the first closed pair of tags; None without one."""
    begin = text.find(BEGIN)
    end = -1 if begin < 0 else text.find(END, begin + len(BEGIN))
    return None if end < 0 else text[begin + len(BEGIN) : end]
