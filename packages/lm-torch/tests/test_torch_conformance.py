import functools

import pytest
import torch

from lm_core.testing import BackendConformance


class TestTorch(BackendConformance):
    backend_name = "torch"

    @pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_compiling_changes_only_the_rounding(self, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is traced, its derivatives and its shapes; inductor generates its code in a minute (`-m slow`)."""
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=compiler))
        super().test_compiling_changes_only_the_rounding()
