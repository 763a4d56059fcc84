"""From text to tokens, to a trained model, and back to text.

    text        where text comes from: files, folders, JSONL, parquet, archives, the named data sets
    tokens      text -> token files, resumable, in parallel
    training    the parts of a plan that need a tokenizer: samples, bytes of text, next steps
    saved_model a run folder or a Hugging Face folder -> model and tokenizer
    generation  prompt -> text: streams, the prompt loop, its settings
    verify      whether a run folder is whole
    trials      grids and sweeps of runs
    commands    transformerlm-{train-tokenizer, make-data, train, infer, export, sweep}
    program     the shared code of these command lines

It stands on `lm_core` and `lm_tokenizer`; apps stand on it.
"""
