"""Policy of what a resume of Testbed D may change, flag by flag (`lm_core.run.resume`)."""

from lm_core.run.resume import Policy

POLICY = Policy(
    # The weights, the optimizer's state, and what the run's losses are measured on and compared by.
    refused="""
        d_model n_layer n_head ctx seed opt layer_bucket deterministic
        val_frac eval_bs fixed_eval_seed
    """,
    # The text counts by what it holds, not by where it is.
    recorded="""
        text steps batch lmin lmax len_bucket burst_rate burst_length burst_text
        lr lr_schedule lr_warmup hidden_warmup hidden_beta2 warmup adam_beta2 kbeta_bias_correction
        wd wd_bias wd_norm wd_embed
        eval_every early_stop_patience early_stop_min_delta early_stop_warmup
        backend device dtype matmul_precision compile
    """,
    no_effect="save_every log_every sample parallel cuda_graph barrier_every",
    call="save_dir resume config",
)
