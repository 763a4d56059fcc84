"""`lm-bench train`: our training step, loop and result against a plain PyTorch loop and Hugging Face's GPT-2.

Reading order: workload -> sides -> speed, memory, loop, convergence -> measurement -> report.
"""
