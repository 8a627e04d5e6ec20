"""What docstrings say of options."""


def argument_descriptions(docstring: str | None) -> dict[str, str]:
    """Return the description of each argument in the `Args:` of a docstring."""
    lines = (docstring or "").partition("Args:")[2].splitlines()
    descriptions: dict[str, str] = {}
    names: list[str] = []
    depth = 0
    for line in lines[1:]:
        indent = len(line) - len(line.lstrip())
        if not line.strip() or (depth and indent < depth):
            break
        depth = depth or indent
        if indent == depth:
            head, _, text = line.strip().partition(": ")
            names = [name.strip() for name in head.split(",")]
            descriptions |= dict.fromkeys(names, text)
        else:
            descriptions |= {name: f"{descriptions[name]} {line.strip()}" for name in names}
    return descriptions
