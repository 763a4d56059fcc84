"""mini_gpt: from a folder of your own files to text in your own voice.

Reading order: flags (what can be chosen) -> workload (what it means) -> train (the run) -> sample (its text).
"""
