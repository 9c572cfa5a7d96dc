"""Odd strings for tokenizers: code, scripts, emoji, control characters, special tokens."""

import random
import unicodedata

ORDINARY = ["<think>", "</think>", "<tool_call>"]  # added, but text
CHATML_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
LLADA_SPECIAL = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]

PIECES = {  # what strings are made of, by kind
    "code": [
        "def f(x):\n",
        "    return ",
        "x + 1",
        "\tif (a != b) {",
        "};\r\n",
        "self.",
        "__init__",
        "0x1F",
        "1_000",
        "#!/bin/sh",
        "// ...",
        "'it''s'",
        'f"{x!r}"',
        "\\n",
        "->",
        "&&",
        "e=mc^2",
        "2024",
        "3.14159",
        "\n\n\n",
        "        ",
    ],
    "words": [
        "It's",
        "WE'LL",
        "don\u2019t",
        "I'm",
        "'S",
        "'\u017f",
        "\u00fcber",
        "\u00c5ngstr\u00f6m",
        "\u4f60\u597d",
        "\u65e5\u672c\u8a9e",
        "\ud55c\uad6d\uc5b4",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
        "\u041f\u0440\u0438\u0432\u0435\u0442",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\u0130stanbul",
        "\u1e9e",
        " ",
        "  ",
        ", ",
        "\u3002",
    ],
    "emoji": [
        "\U0001f600",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f44d\U0001f3fd",
        "\U0001f1e9\U0001f1ea",
        "\u2764\ufe0f",
        "1\ufe0f\u20e3",
        "\U0001fae0",
        "\u231a",
        " ",
        "\U000e0067",
    ],
    "control": [
        "\x00",
        "\x07",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\xa0",
        "\u2028",
        "\u2029",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\ufffd",
        "\uffff",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1f",
        "\r",
        "\r\n",
        "\t",
        "\u3000",
        "\U0010ffff",
        "\ue000",
        "a",
    ],
    "marks": [
        "e\u0301",
        "\u00e9",
        "a\u0323\u0302",
        "a\u0302\u0323",
        "\u1e69",
        "s\u0323\u0307",
        "\u1112\u1161\u11ab",
        "\u212b",
        "\u2126",
        "\ufb01",
        "\u0344",
        "\u0958",
        "\u0301",
        "\u0301\u0301\u0301",
        "n\u0303",
        "\uf900",
        "\U0001d15e",
        "o\u0338",
        " ",
    ],
    "special": [
        *CHATML_SPECIAL,
        *LLADA_SPECIAL,
        *ORDINARY,
        "<|im_",
        "|>",
        "<|im_end |>",
        "<think",
        " x ",
        "\n",
        "<|endoftext|>\n",
    ],
}


def strings(count: int, kinds=tuple(PIECES)) -> list[str]:
    """The same strings every time: short ones of each kind, mixtures, random characters, very long
    words."""
    rng = random.Random(0)
    every = [piece for kind in kinds for piece in PIECES[kind]]
    found = [
        "",
        " ",
        "\n",
        "a" * 5000,
        "ab" * 2000,
        "\u00e9" * 999,
        " " * 3000,
        "x\n" * 500,
        "1" * 700,
        "e\u0301" * 400,
    ]
    found += ["Donaudampfschiff" * 50, "!?" * 800, "\U0001f600" * 300, "\u0301" * 200]
    while len(found) < count:
        pieces = PIECES[rng.choice(kinds)] if rng.random() < 0.6 else every
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 25)))
        if rng.random() < 0.3:
            drawn = [
                chr(
                    rng.choice((rng.randrange(256), rng.randrange(0x3400), rng.randrange(0x110000)))
                )
                for _ in range(16)
            ]
            # No lone surrogates, which UTF-8 lacks, nor what Python's tables do not know: others
            # may be of another year.
            text += "".join(
                character
                for character in drawn
                if unicodedata.category(character) not in ("Cs", "Cn")
            )
        found.append(text)
    return found
