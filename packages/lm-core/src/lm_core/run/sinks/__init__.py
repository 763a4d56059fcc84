"""Sinks of records besides `metrics.jsonl`: the console, TensorBoard, Weights & Biases."""
