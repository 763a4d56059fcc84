from lm_bench.environment import core_count, cpu_model, instructions, load_average, observe


def test_the_line_names_machine_versions_and_date():
    environment = observe({"torch": "torch 9 on cpu, 2 threads"}, load=0.25)
    for part in (environment.date, cpu_model(), f"{core_count()} cores", "load 0.25", "numpy", "torch 9 on cpu"):
        assert part in environment.line
    assert core_count() > 0
    assert load_average() >= 0


def test_the_instructions_are_the_widest_with_bfloat16_and_the_limits():
    zen4 = ["sse2", "avx", "avx2", "avx512f", "avx512_bf16"]
    assert instructions(zen4, {}) == "AVX-512 + bfloat16"
    assert instructions(["avx", "avx2"], {"HOME": "x"}) == "AVX2"
    assert instructions(["fp", "asimd", "bf16"], {}) == "NEON + bfloat16"
    assert instructions(zen4, {"ONEDNN_MAX_CPU_ISA": "AVX2"}) == "AVX-512 + bfloat16 (ONEDNN_MAX_CPU_ISA=AVX2)"
    assert instructions([], {})
