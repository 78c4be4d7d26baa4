"""Models: loading, tokenisation, option scores, and the option that a text names."""
