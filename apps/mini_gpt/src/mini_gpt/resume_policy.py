"""Policy of what a resume of mini_gpt may change, flag by flag (`lm_core.run.resume`)."""

from lm_core.run.resume import Policy

POLICY = Policy(
    # The weights, the optimizer's state, and what the run's losses are compared by.
    refused="tokenizer vocab_size block_size n_layer n_embed n_head seed",
    # The text counts by what it holds, not by where it is.
    recorded="""
        data_file data_dir include
        dropout batch_size grad_accum_steps max_steps base_lr use_cosine warmup_steps min_factor weight_decay
        eval_every eval_tokens
        backend device amp dtype matmul_precision deterministic compile
    """,
    no_effect="gradient_checkpointing save_every log_every sample parallel cuda_graph",
    call="save_dir resume config",
)
