"""One decoder for the Llama, Qwen and Mistral families, and its Hugging Face files."""
