"""gpt: GPT-2-size training on streamed text, evaluation that is right, and a look inside, by configs alone."""
