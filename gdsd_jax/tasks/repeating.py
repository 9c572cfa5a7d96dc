"""Tells texts that repeat themselves without end from others."""

import re
import zlib

LEAST_BYTES = 80  # shorter ones say too little
_EIGHT_TIMES = re.compile(r"(\S{1,20}?|\w+(?:\W+\w+){0,2}?\W+)\1{6,}(?:\1|\w|$)", re.IGNORECASE)
WINDOW_BYTES = 2000
SMALLEST_SHARE = 0.2  # of the bytes that are left when a text is compressed


def is_repeating(text: str) -> bool:
    """Whether a text, or the second half of it, says the same again and again.

    Of at most 2,000 bytes, at the begin of the text and at the end of it, zlib leaves less than 20%
    then: about one phrase that stands there six times. English prose of that length keeps more
    than 45%. Texts under 80 bytes repeat themselves where most of it is one piece, of up to three
    words or of letters, that stands there eight times and more without anything between.
    """
    if len(text) < LEAST_BYTES:
        return any(2 * len(hit[0]) > len(text.strip()) for hit in _EIGHT_TIMES.finditer(text))
    data = text.encode(errors="surrogatepass")
    half = data[len(data) // 2 :]
    return _is_dull(data[:WINDOW_BYTES]) or _is_dull(half[-WINDOW_BYTES:])


def _is_dull(data: bytes) -> bool:
    if len(data) < LEAST_BYTES:
        return False
    # a few bytes are a frame, which says nothing
    return len(zlib.compress(data, 6)) - 10 < SMALLEST_SHARE * len(data)
