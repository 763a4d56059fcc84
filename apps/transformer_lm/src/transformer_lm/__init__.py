"""A small Transformer language model: train on a dataset, continue prompts.

Reading order of inference: settings (what can be chosen), prompt and writer (from a prompt to its text), commands,
line_editor (the terminal), prompt_loop.
"""
