"""placeholder"""

CHINESE: dict[str, str] = {}
TYPER: dict[str, str] = {}
