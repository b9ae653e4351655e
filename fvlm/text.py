"""Numbers as people read them: durations, intervals."""


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
