from lm_bench.table import aligned


def test_columns_line_up():
    assert aligned([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
