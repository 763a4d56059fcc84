"""The keys of a `config.json` that say nothing of what a causal language model computes, and are not read.

They describe the file, how training went, other heads than the language model's, or how text is to be generated; the
latter were written here before transformers had `generation_config.json`.
"""

OF_THE_FILE = (
    "architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "name_or_path", "_name_or_path",
    "_commit_hash", "_from_model_config", "auto_map", "tokenizer_class", "transformers.js_config", "unsloth_version",
    "unsloth_fixed", "is_llama_config",
)  # fmt: skip
OF_EXECUTION = (
    "use_cache", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "torchscript",
    "use_bfloat16", "tf_legacy_loss", "gradient_checkpointing", "pretraining_tp", "chunk_size_feed_forward",
    "reorder_and_upcast_attn", "return_dict", "use_return_dict", "output_attentions", "output_hidden_states",
    "output_scores", "return_dict_in_generate", "tie_last_hidden_states",
)  # fmt: skip
OF_TRAINING = (
    "initializer_range", "attention_dropout", "hidden_dropout", "classifier_dropout", "resid_pdrop", "embd_pdrop",
    "attn_pdrop", "finetuning_task", "task_specific_params",
)  # fmt: skip
OF_OTHER_HEADS = (
    "id2label", "label2id", "num_labels", "problem_type", "summary_type", "summary_use_proj", "summary_activation",
    "summary_proj_to_labels", "summary_first_dropout", "summary_last_dropout", "token_classification_bias",
    "predict_special_tokens", "n_special", "is_decoder", "tie_encoder_decoder", "cross_attention_hidden_size",
)  # fmt: skip
OF_GENERATION = (
    "bos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "prefix", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "max_new_tokens",
)  # fmt: skip
IGNORED = frozenset((*OF_THE_FILE, *OF_EXECUTION, *OF_TRAINING, *OF_OTHER_HEADS, *OF_GENERATION))
