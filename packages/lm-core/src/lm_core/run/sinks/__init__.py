"""Where records go beside `metrics.jsonl`: the console, TensorBoard, Weights & Biases."""
