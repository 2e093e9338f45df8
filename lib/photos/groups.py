"""Find the group of each photo, such as its patient, specimen or camera, in its path or in a table."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lib.core import tables
from lib.core.schema import Source
from lib.photos import labels


def of_photos(raw: Path, source: Source, paths: Sequence[str], *, group: str) -> list[str]:
    """Return the group of each photo of a source.

    Args:
        raw: the folder of the original files.
        source: its `tables` are searched for a column with the name of the group.
        paths: paths of the photos relative to `raw`, with `/`.
        group: a column of the tables; or, if no table has it, a pattern, see `of_paths`.

    Returns:
        The group of each path; empty for a photo that has none.

    Raises:
        ValueError: if neither a table has the column nor the pattern can be used, see `of_paths`.
    """
    columns: set[str] = set()
    values: dict[str, str] = {}
    for table in source.tables.values():
        header = list(tables.read_csv(raw / table.file).columns)
        columns |= set(header)
        if group in header:
            rows = labels._read_table(raw, table.model_copy(update={"label": group}))
            values |= {str(PurePosixPath(table.photos) / name): value for name, value in rows}
    if group in columns:
        return [values.get(path, "") for path in paths]
    if "(" in group:
        return of_paths(group, paths)
    raise ValueError(
        f"expected a column of the tables in `split.group`, or a regular expression with one group in "
        f"parentheses. Received: {group!r}. Columns: {', '.join(map(repr, sorted(columns)))}"
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
