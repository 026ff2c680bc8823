"""Tuned models in the files of inference servers: GGUF for llama.cpp and Ollama, folders for vLLM; and their check."""
