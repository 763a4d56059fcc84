"""Policy of what a resume may change of a run, flag by flag (`lm_core.run.resume`)."""

from lm_core.run.resume import Policy

POLICY = Policy(
    # The weights, the vocabulary, and the order of the data.
    refused="dataset tokenizer context_size num_blocks dim num_heads seed",
    # data_dir counts by the text that it holds.
    recorded="""
        data_dir dropout batch_size num_iters learning_rate lr_warmup weight_decay
        backend gpu dtype matmul_precision deterministic compile
    """,
    no_effect="""
        checkpoint parallel cuda_graph top_k temperature sample_tokens
        steps_per_report steps_per_eval steps_per_save keep
    """,
    call="save_dir new_model identifier inference eval_test config",
)
ADVICE = "leave these flags out, or give --new_model to start another model"
SHAPE = ("dataset", "tokenizer", "context_size", "num_blocks", "dim", "num_heads")
"""With another one of these it is another model; of a prompt, the seed may be any."""
