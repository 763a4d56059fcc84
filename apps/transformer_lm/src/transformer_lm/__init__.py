"""A small Transformer language model: trained on a text, asked to go on with others.

Reading order of inference: settings (what can be chosen), prompt and writer (from a prompt to its text), commands,
line_editor (the terminal), prompt_loop.
"""
