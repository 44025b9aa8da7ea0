"""Inputs for the models of packages, and which numbers of an answer are kept; used by the tests and by make_answers.py.

Needs NumPy only: make_answers.py runs where fastlstm is not installed.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

KEPT = 24

# Each model of ethnicolr below its folder "models": its vocabulary, the names of its classes, the length of its input, the
# lengths of the pieces that names are cut into, and names with the classes that the package's own tests and README give them.
_SMITH, _ZHANG = "GreaterEuropean,British", "Asian,GreaterEastAsian,EastAsian"
_FLORIDA = (("zhang", "asian"), ("torres", "hispanic"))
_FLORIDA_NAMES = (("zhang simon", "asian"), ("torres raul", "hispanic"))
_CAROLINA = (("hernandez hector", "HL+O"), ("zhang simon", "NL+A"))


class Ethnicolr(NamedTuple):
    vocabulary: str
    classes: str
    length: int
    pieces: tuple
    people: tuple


def _florida(vocabulary, classes, length, people):
    folder = "fl_voter_reg/lstm/"
    return Ethnicolr(f"{folder}{vocabulary}.csv", f"{folder}{classes}.csv", length, (2, 2), people)


def _carolina(vocabulary, classes, people):
    folder = "nc_voter_reg/lstm/"
    # The package's code says pieces of 2 and 3; the answers in its README, and its tests, come from those of 2 alone.
    return Ethnicolr(f"{folder}{vocabulary}.csv", f"{folder}{classes}.csv", 25, (2, 2), people)


ETHNICOLR = {
    "census/lstm/census2000_ln_lstm.h5": Ethnicolr(
        "census/lstm/census2000_ln_vocab.csv",
        "census/lstm/census2000_race.csv",
        20,
        (2, 2),
        (("smith", "white"), ("zhang", "api")),
    ),
    "census/lstm/census2010_ln_lstm.h5": Ethnicolr(
        "census/lstm/census2010_ln_vocab.csv",
        "census/lstm/census2010_race.csv",
        20,
        (2, 2),
        (("smith", "white"), ("zhang", "api"), ("jackson", "black")),
    ),
    "wiki/lstm/wiki_ln_lstm.h5": Ethnicolr(
        "wiki/lstm/wiki_ln_vocab.csv", "wiki/lstm/wiki_race.csv", 20, (2, 2), (("smith", _SMITH), ("zhang", _ZHANG))
    ),
    "wiki/lstm/wiki_name_lstm.h5": Ethnicolr(
        "wiki/lstm/wiki_name_vocab.csv",
        "wiki/lstm/wiki_name_race.csv",
        25,
        (2, 2),
        (("smith john", _SMITH), ("zhang simon", _ZHANG)),
    ),
    "fl_voter_reg/lstm/fl_all_ln_lstm.h5": _florida("fl_all_ln_vocab", "fl_ln_race", 20, _FLORIDA),
    "fl_voter_reg/lstm/fl_all_name_lstm.h5": _florida("fl_all_name_vocab", "fl_name_race", 25, _FLORIDA_NAMES),
    "fl_voter_reg/lstm/fl_all_ln_lstm_5_cat.h5": _florida("fl_all_ln_vocab_5_cat", "fl_ln_five_cat_race", 20, _FLORIDA),
    "fl_voter_reg/lstm/fl_all_ln_lstm_5_cat_2022.h5": _florida(
        "fl_all_ln_vocab_5_cat_2022", "fl_ln_five_cat_race_2022", 20, _FLORIDA
    ),
    "fl_voter_reg/lstm/fl_all_fullname_lstm_5_cat.h5": _florida(
        "fl_all_fullname_vocab_5_cat", "fl_name_five_cat_race", 20, _FLORIDA_NAMES
    ),
    "fl_voter_reg/lstm/fl_all_fullname_lstm_5_cat_2022.h5": _florida(
        "fl_all_fullname_vocab_5_cat_2022", "fl_name_five_cat_race_2022", 20, _FLORIDA_NAMES
    ),
    "nc_voter_reg/lstm/nc_voter_name_lstm_oversample.h5": _carolina("nc_voter_name_vocab_oversample", "nc_name_race", _CAROLINA),
    # The package holds these and does not use them: nobody says what they should answer.
    "nc_voter_reg/lstm/nc_voter_name_lstm.h5": _carolina("nc_voter_name_vocab", "nc_name_race", ()),
    "nc_voter_reg/lstm/nc_voter_name_hispanic_lstm.h5": _carolina("nc_voter_name_vocab", "nc_name_hispanic", ()),
    "nc_voter_reg/lstm/nc_voter_name_race_lstm.h5": _carolina("nc_voter_name_race_vocab", "nc_name_race_only", ()),
    "nc_voter_reg/lstm/nc_voter_name_race_lstm_oversample.h5": _carolina(
        "nc_voter_name_race_vocab_oversample", "nc_name_race_only", ()
    ),
}
PEOPLE = ("smith john", "zhang simon", "hernandez hector", "o'neill mary ann")
CHARS2VEC = (50, 100, 150, 200, 300)
CHARACTERS = 59  # that chars2vec knows
VOCABULARY = 465  # of textgenrnn
RNNMORPH = tuple(f"{language}/{kind}" for language in ("ru", "en") for kind in ("eval", "train"))


SILERO = (
    "silero_vad.onnx",
    "silero_vad_16k_op15.onnx",
    "silero_vad_16k_sequence.onnx",
    "silero_vad_half.onnx",
    "silero_vad_op18_ifless.onnx",
    "silero_vad_openvino_16k.onnx",
)


def kept(y):
    """Some numbers of an array, from all over it."""
    flat = np.asarray(y, np.float64).ravel()
    return flat[:: max(1, flat.size // KEPT)][:KEPT]


def wave(*shape):
    """Numbers between -1 and 1 that every version of NumPy makes alike."""
    return np.sin(0.37 * np.arange(np.prod(shape)) + 0.1).reshape(shape).astype(np.float32)


def whole(size, *shape):
    """Whole numbers from 0 to ``size`` - 1."""
    return (np.arange(np.prod(shape)) * 7919 % size).reshape(shape).astype(np.int32)


# -- ethnicolr ----------------------------------------------------------------------------------------------------------
# Pieces of names that the table reader of the package takes for missing values.
_MISSING = ("NA", "nan", "NaN", "N/A", "n/a")


def column(path, name):
    """One column of a .csv."""
    with open(path, encoding="utf-8", newline="") as stream:
        return [row[name] for row in csv.DictReader(stream)]


def ethnicolr_input(packages, name, people):
    """Numbers of the pieces of each name, zeros in front: [people, length]."""
    model = ETHNICOLR[name]
    listed = column(Path(packages) / "ethnicolr" / "models" / model.vocabulary, "vocab")
    numbers = {piece: k for k, piece in reversed(list(enumerate(listed))) if piece not in _MISSING}
    rows = []
    for person in people:
        text = person.strip().title()
        pieces = [text[k : k + n] for n in range(model.pieces[0], model.pieces[1] + 1) for k in range(len(text) - n + 1)]
        row = [numbers.get(piece, 0) for piece in pieces][-model.length :]
        rows.append([0] * (model.length - len(row)) + row)
    return np.array(rows, np.int32)


# -- the others ---------------------------------------------------------------------------------------------------------
def rnnmorph_inputs(names, grammemes):
    """Two sentences of six words: grammemes between 0 and 1, characters as numbers; in the order of ``names``."""
    inputs = {"grammemes": np.abs(wave(2, 6, grammemes)), "chars": whole(30, 2, 6, 32)}
    return [inputs[name] for name in names]


def silero_inputs(name):
    """{input: array}: two windows of 512 samples at 16 kHz, each with the 64 before it, from the beginning of a stream."""
    sequence = "sequence" in name
    windows = 0.4 * wave(2 if sequence else 1, 576)
    states = {"h": (1, 1, 128), "c": (1, 1, 128)} if sequence else {"state": (2, 1, 128)}
    inputs = {"input": windows, **{state: np.zeros(shape, np.float32) for state, shape in states.items()}}
    if "sequence" not in name and "half" not in name and "openvino" not in name:
        inputs["sr"] = np.array(16000, np.int64)
    return inputs
