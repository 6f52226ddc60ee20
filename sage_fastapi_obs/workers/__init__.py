"""Several workers of one service: what each has counted and does is in a mapped file, so that any of them answers for all."""
