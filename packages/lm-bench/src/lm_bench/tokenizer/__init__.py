"""`lm-bench tokenizer`: our byte-level BPE against the libraries that people use, interleaved in one run.

Reading order: texts, gpt2 -> libraries -> worker, workers (one process for each library and number of threads) ->
rounds -> encoding, decoding, starting, training (the measurements) -> parts (which of them, on what) -> report.
"""
