"""Text in, batches out: vocabulary, corpus, windows."""
