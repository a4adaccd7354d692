"""How a run is judged: clustering scores, kNN, assignments. The only reader of ground truth."""
