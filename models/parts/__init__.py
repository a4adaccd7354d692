"""What methods share: encoders, heads, EMA, queue, centres."""
