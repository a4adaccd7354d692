"""Where pixels come from and what is done to them."""
