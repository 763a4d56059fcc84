"""Where documents start; and sinusoidal positions: what they are, and that a model has no parameter for them."""

import math

import numpy as np
import pytest

from lm_core.config import ModelConfig
from lm_core.model.parameters import parameter_table
from lm_core.model.positions import document_starts, sinusoids


def test_a_document_starts_where_the_number_changes_also_to_one_that_was_there_before() -> None:
    segments = np.array([[7, 7, 7, 7], [0, 1, 1, 0], [-1, -1, 5, 5]])
    np.testing.assert_array_equal(document_starts(segments), [[0, 0, 0, 0], [0, 1, 1, 3], [0, 0, 2, 2]])


def test_sines_fill_the_first_half_and_cosines_the_second() -> None:
    table = sinusoids(50, 6)
    assert table.shape == (50, 6)
    for pair, frequency in enumerate((1.0, 1e-2, 1e-4)):
        assert table[7, pair] == pytest.approx(math.sin(7 * frequency) / math.sqrt(3))
        assert table[7, 3 + pair] == pytest.approx(math.cos(7 * frequency) / math.sqrt(3))
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1)
    np.testing.assert_array_equal(sinusoids(9, 6), table[:9])


def test_how_alike_two_positions_are_depends_on_their_distance_alone() -> None:
    table = sinusoids(40, 32)
    alike = table @ table.T
    for distance in (0, 1, 5):
        np.testing.assert_allclose(np.diagonal(alike, distance), alike[0, distance], atol=1e-12)


def test_the_parameter_table_has_none() -> None:
    tables = [
        parameter_table(ModelConfig(vocab_size=5, seq_len=8, d_model=8, n_layers=1, n_heads=1, positions=positions))
        for positions in ("sinusoidal", "none")
    ]
    assert tables[0] == tables[1]
