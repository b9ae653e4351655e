"""Numbers as people read them: durations, intervals."""


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def ago(seconds: float) -> str:
    """How long ago, in one unit: 5 min ago, 3 h ago, 12 days ago."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def span(low: float, high: float, digits: int = 2, signed: bool = True) -> str:
    """From one number to another: +0.10 to +2.30."""
    form = f"{'+' if signed else ''}.{digits}f"
    return f"{low:{form}} to {high:{form}}"


def with_interval(
    value: float, low: float, high: float, digits: int = 2, signed: bool = True, unit: str = ""
) -> str:
    """A number and its interval: +1.23 (+0.10 to +2.30), or with a unit +1.23 % (+0.10 to +2.30)."""
    return f"{value:{'+' if signed else ''}.{digits}f}{unit} ({span(low, high, digits, signed)})"
