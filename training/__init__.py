"""The EM loop and what surrounds it: settings, build, steps, embedding, optimisers, checkpoints, logs."""
