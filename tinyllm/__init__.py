"""A reproduction study of TinyLLM (arXiv 2402.04616)."""
