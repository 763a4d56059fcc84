from lm_core.testing import BackendConformance


class TestTorch(BackendConformance):
    backend_name = "torch"
