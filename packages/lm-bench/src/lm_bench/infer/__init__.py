"""`lm-bench infer`: greedy decoding with our KV cache against Hugging Face's `generate`.

Reading order: workload -> sides -> measurement -> report.
"""
