"""Teachers: prompt models for rationales and answers, store the texts, check their quality."""
