"""Models: loading, tokens in and out, scores of options, the option that a text names."""
