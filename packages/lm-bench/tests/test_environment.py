from lm_bench.environment import core_count, cpu_model, load_average, observe


def test_the_line_names_machine_versions_and_date():
    environment = observe({"torch": "torch 9 on cpu, 2 threads"}, load=0.25)
    for part in (environment.date, cpu_model(), f"{core_count()} cores", "load 0.25", "numpy", "torch 9 on cpu"):
        assert part in environment.line
    assert core_count() > 0
    assert load_average() >= 0
