"""Tells texts that repeat themselves without end from others."""

import collections
import re
import zlib

LEAST_BYTES = 80  # shorter ones say too little
_EIGHT_TIMES = re.compile(r"(\S{1,20}?|\w+(?:\W+\w+){0,2}?\W+)\1{6,}(?:\1|\w|$)", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?\n\u3002\uff01\uff1f]+")
_MARKS = re.compile(r"[\W_]+")
SENTENCES = 6  # of the same words
WINDOW_BYTES = 2000
SMALLEST_SHARE = 0.2  # of the bytes that are left when a text is compressed


def is_repeating(text: str) -> bool:
    """Whether a text, or the second half of it, says the same again and again.

    Of at most 2,000 bytes, at the begin of the text and at the end of it, zlib leaves less than 20%
    then: about one phrase that stands there six times. English prose of that length keeps more
    than 45%. Texts under 80 bytes repeat themselves where most of it is one piece, of up to three
    words or of letters, that stands there eight times and more without anything between. Of any
    length they do where one sentence or line stands there six times and is most of the text; one of
    less than three words, where it is nearly all of it.
    """
    if _is_one_sentence(text):
        return True
    if len(text) < LEAST_BYTES:
        return any(2 * len(hit[0]) > len(text.strip()) for hit in _EIGHT_TIMES.finditer(text))
    data = text.encode(errors="surrogatepass")
    half = data[len(data) // 2 :]
    return _is_dull(data[:WINDOW_BYTES]) or _is_dull(half[-WINDOW_BYTES:])


def _is_one_sentence(text: str) -> bool:
    """Whether a text is mostly one sentence, which stands there SENTENCES times or more."""
    found = collections.Counter()
    for hit in _SENTENCE.finditer(text):
        said = _MARKS.sub(" ", hit[0]).strip().casefold()
        if any(sign.isalpha() for sign in said):
            found[said] += 1
    if not found:
        return False
    said, times = found.most_common(1)[0]
    rest = sum(len(other) * count for other, count in found.items()) - len(said) * times
    share = 1 if len(said.split()) > 2 else 9  # to one of the rest
    return times >= SENTENCES and len(said) * times > share * rest


def _is_dull(data: bytes) -> bool:
    if len(data) < LEAST_BYTES:
        return False
    # a few bytes are a frame, which says nothing
    return len(zlib.compress(data, 6)) - 10 < SMALLEST_SHARE * len(data)
