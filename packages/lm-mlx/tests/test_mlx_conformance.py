from lm_core.testing import BackendConformance


class TestMlx(BackendConformance):
    backend_name = "mlx"
    compiles_fast = True
