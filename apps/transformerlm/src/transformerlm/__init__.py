"""Command lines from text to a Transformer language model, each a thin layer over the packages.

Reading order: program (what every command line shares), corpus (from file names to pieces of documents), tokenizers,
train_tokenizer; then make_data (what can be chosen), job (what it means), encoding, parts (what survives a kill).

Training: saved_model, train_config (what can be chosen), run_plan (what it means), train. Inference: prompts, infer,
export. Sweeps: sweep_config, sweep.
"""
