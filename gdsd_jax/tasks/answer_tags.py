r"""Finds where a text ends, what stands between <answer> and </answer>, or in \boxed{}.

Time is linear in the text.
"""

import collections
import re

BEGIN, END = "<answer>", "</answer>"
_TAG = re.compile(r"<(/?)answer", re.IGNORECASE)
# what templates put behind a turn or a text: of LLaDA and Llama, Qwen and Dream, Gemma, DeepSeek
_END_TOKENS = re.compile(
    r"<\|(?:eot_id|eom_id|endoftext|end_of_text|im_end|end|eos|pad)\|>|</s>"
    "|<eos>|<pad>|<end_of_turn>|<\uff5cend\u2581of\u2581sentence\uff5c>"
)
# what a sampler leaves unwritten, or a template puts before a text
_FILLER = (
    r"(?:<\|(?:mdm_mask|mask|begin_of_text|startoftext|im_start|bos|unk)\|>|<(?:mask|unk|s|bos)>"
    r"|\[(?:MASK|PAD|UNK)\]|<\uff5cbegin\u2581of\u2581sentence\uff5c>|\ufeff)"
)
_FILLERS = re.compile(
    rf"\A(?:\s*{_FILLER})+[ \t]*|^[ \t]*(?:{_FILLER}[ \t]*)+$|(?:{_FILLER}\s*)+\Z", re.MULTILINE
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile("[{}]")
_BRACE_OR_ESCAPED = re.compile(r"\\.|[{}]", re.DOTALL)


def until_end(text: str) -> str:
    """A text without what follows its first end token, and without that."""
    end = _END_TOKENS.search(text)
    return text if end is None else text[: end.start()]


def without_fillers(text: str) -> str:
    """A text without masks that were never filled and tokens that begin a text: at its begin, at
    its end, and where a line holds nothing else."""
    return _FILLERS.sub("", text)


def tagged_of(text: str) -> str | None:
    """What the last <answer> tag holds, in any case of letters, up to its end or that of the text;
    None without one."""
    text = _TAG.sub(r"<\1answer", text)
    before, tag, after = text.rpartition(BEGIN)
    if not tag:
        return None
    content, closed, _ = after.partition(END[:-1])  # whose ">" may be missing
    if closed or END not in before:
        return content
    return last_of(text)  # the open tag comes after a whole pair


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


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{} or \fbox{} holds, braces balanced; None where none is or it is open.

    Escaped braces are text.
    """
    begins = collections.deque(_BOXED.finditer(text), maxlen=1)
    if not begins:
        return None
    begin = begins[0].end()
    end = end_of_braces(text, begin - 1, escapes=True)
    return None if end is None else text[begin:end]


def end_of_braces(text: str, begin: int, escapes: bool) -> int | None:
    """Where the first braces behind `begin` are closed again; None where they never are.

    With `escapes` an escaped brace is text.
    """
    depth = 0
    for brace in (_BRACE_OR_ESCAPED if escapes else _BRACE).finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return brace.start()
    return None
