"""Models of Hugging Face's `transformers`, in and out: `config.json` and safetensors files, in numpy alone."""
