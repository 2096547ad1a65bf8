"""How a step travels between a vector and its workers: one contract, three kinds."""
