"""Prompts to text: for a command line (prompts, records) and for a person (prompt_loop, settings, line_editor)."""
