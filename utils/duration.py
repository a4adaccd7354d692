"""Lengths of time as people read them."""


def duration(seconds: float) -> str:
    """Seconds as 0:07, 12:40 or 3:05:10."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
