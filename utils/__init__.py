"""How processes, files, words and random numbers behave; imports only torch_clustering below it."""
