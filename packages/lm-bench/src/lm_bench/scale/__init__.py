"""What a run by many GPUs costs, by paper: memory, communication, saves against failures, stragglers."""
