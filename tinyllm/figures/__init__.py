"""The house style and the plots that several notebooks share."""
