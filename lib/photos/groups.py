"""Find the group of each photo, such as its patient, specimen or camera, in its path or in a table."""

import re
from collections.abc import Sequence

import pandas as pd


def of_photos(table: pd.DataFrame, group: str) -> list[str]:
    """Return the group of each photo of a source.

    Args:
        table: the columns `path`, and `group` with the values of the column `group` of the source's tables;
            its `attrs["columns"]` are the columns of these tables.
        group: a column of the tables; or, if no table has it, a pattern, see `of_paths`.

    Returns:
        The group of each path; empty for a photo that has none.

    Raises:
        ValueError: if neither a table has the column nor the pattern can be used, see `of_paths`.
    """
    columns = table.attrs["columns"]
    if group in columns:
        return list(table.group)
    if "(" in group:
        return of_paths(group, list(table.path))
    raise ValueError(
        f"expected a column of the tables in `split.group`, or a regular expression with one group in "
        f"parentheses. Received: {group!r}. Columns: {', '.join(map(repr, columns)) or 'no tables'}"
    )


def of_paths(pattern: str, paths: Sequence[str]) -> list[str]:
    r"""Return the text that the group of a regular expression matches in each path.

    Args:
        pattern: a regular expression with one group in parentheses, such as `patient(\d+)_`. It is searched
            anywhere in the path.
        paths: paths of the photos relative to the source, with `/`.

    Returns:
        The group of each path; empty if the pattern does not match it.

    Raises:
        ValueError: if the pattern is not valid, does not have exactly one group or matches no path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`split.group` must be a regular expression: {error}. Received: {pattern!r}"
        ) from None
    if compiled.groups != 1:
        raise ValueError(
            f"`split.group` must have one group in parentheses. Received: {compiled.groups} in {pattern!r}"
        )
    matches = (compiled.search(path) for path in paths)
    result = [(match[1] or "") if match else "" for match in matches]
    if not any(result):
        example = f", such as {paths[0]}" if paths else ""
        raise ValueError(
            f"expected a pattern in `split.group` that matches the paths of the photos{example}. "
            f"Received: {pattern!r}, which matches none of {len(paths)} paths"
        )
    return result
