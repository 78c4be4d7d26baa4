"""Teachers: asking models for rationales and answers, keeping what they wrote, judging it."""
