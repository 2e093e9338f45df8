"""Small data sets with the tables that people really have: each function fills an empty folder.

Each function returns the parameters of its table, `source.tables.<name>`, apart from the file.
"""

import zipfile

from shared import encoded, scene

ANIMALS = ["owl", "yak"]


def photo(folder, path, seed, form="JPEG"):
    """Write a small photo that no other seed draws."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(scene(seed, 24, 18), form))


def labelled(count=6):
    """Yield the number and the label of photos of two classes in turn."""
    for number in range(count):
        yield number, ANIMALS[number % 2]


def write(folder, lines, *, encoding="utf-8", line_end="\n", name="labels.csv"):
    """Write the lines of a table."""
    (folder / name).write_bytes((line_end.join(lines) + line_end).encode(encoding))


# Names of files


def ids_without_suffix(folder):
    lines = ["id,kind"]
    for number, label in labelled():
        photo(folder, f"photos/a{number}f.jpg", number)
        lines.append(f"a{number}f,{label}")
    write(folder, lines)
    return {"photos": "photos", "filename": "id", "label": "kind"}


def ids_with_full_stops(folder):
    """An identifier such as v1.2 has no suffix, although it has a full stop."""
    lines = ["id,kind"]
    for number, label in labelled():
        photo(folder, f"photos/v1.{number}.png", number, "PNG")
        lines.append(f"v1.{number},{label}")
    write(folder, lines)
    return {"filename": "id", "label": "kind"}


def photos_in_several_folders(folder):
    lines = ["id,kind"]
    for number, label in labelled():
        photo(folder, f"part {number % 3}/S{number}.jpg", number)
        lines.append(f"S{number},{label}")
    write(folder, lines)
    return {"filename": "id", "label": "kind"}


def photos_in_a_list_of_folders(folder):
    """The third folder holds other pictures of the same names."""
    parameters = photos_in_several_folders(folder)
    for number in range(6):
        photo(folder, f"thumbnails/S{number}.jpg", 90 + number)
    return parameters | {"photos": ["part 0", "part 1", "part 2"]}


def other_case_of_suffixes(folder):
    lines = ["filename,label"]
    for number, label in labelled():
        photo(folder, f"photos/IMG_{number}.{['JPG', 'Jpeg'][number % 2]}", number)
        lines.append(f"img_{number}.jpg,{label}")
    write(folder, lines)
    return {"photos": "photos", "label": "label"}


def paths_of_windows(folder):
    lines = ["filename,label"]
    for number, label in labelled():
        photo(folder, f"photos/{label}/{number}.jpg", number)
        lines.append(f".\\{label}\\{number}.jpg,{label}")
    write(folder, lines)
    return {"photos": "photos", "label": "label"}


def paths_of_another_machine(folder):
    """Absolute paths of three systems, and the usual `../input` of a shared notebook."""
    roots = ["/home/ann/set/photos", "D:\\set\\photos", "https://example.org/set/photos", "../input/photos"]
    lines = ["filename,label"]
    for number, label in labelled(8):
        photo(folder, f"photos/{label}/{number % 2}{number}.jpg", number)
        root = roots[number % 4]
        separator = "\\" if "\\" in root else "/"
        lines.append(separator.join([root, label, f"{number % 2}{number}.jpg,{label}"]))
    write(folder, lines)
    return {"label": "label"}


def same_name_in_two_folders(folder):
    """Nobody can know which of the two photos is meant."""
    for number, place in enumerate(["left", "right"]):
        photo(folder, f"{place}/7.jpg", number)
        photo(folder, f"{place}/{place}.jpg", 5 + number)
    write(folder, ["id,label", "7,owl", "left,yak", "right,owl"])
    return {"filename": "id", "label": "label"}


def a_folder_that_is_not_there(folder):
    """The photos of the folder `yak` are not in the source: those of `owl` must not take their place."""
    for number in range(4):
        photo(folder, f"owl/{number}.jpg", number)
    write(
        folder,
        ["filename,label", *(f"{label}/{number}.jpg,{label}" for number in range(4) for label in ANIMALS)],
    )
    return {"label": "label"}


def a_few_missing_files(folder):
    lines = ["filename,label"]
    for number, label in labelled(20):
        if number not in (3, 8):
            photo(folder, f"photos/{number}.jpg", number)
        lines.append(f"{number}.jpg,{label}")
    write(folder, lines)
    return {"photos": "photos", "label": "label"}


# Splits


def splits(folder, values, column="split"):
    """A table whose third column has these values in turn."""
    lines = [f"filename,label,{column}"]
    for number in range(2 * len(values)):
        photo(folder, f"{number}.jpg", number)
        lines.append(f"{number}.jpg,{ANIMALS[number // len(values)]},{values[number % len(values)]}")
    write(folder, lines)
    return {"label": "label"}


# Labels


def one_hot(folder, ones=("1", "0"), header="image,scab,rust,healthy"):
    lines = [header]
    for number in range(6):
        photo(folder, f"{number}.jpg", number)
        cells = (ones[0] if number % 3 == column else ones[1] for column in range(3))
        lines.append(f"{number}.jpg,{','.join(cells)}")
    write(folder, lines)
    return {"filename": "image"}


def labels_of(folder, labels, **options):
    """A table with these labels, one photo each."""
    for number in range(len(labels)):
        photo(folder, f"{number}.jpg", number)
    quoted = [label.replace('"', '""') for label in labels]
    lines = ["filename,label", *(f'{number}.jpg,"{label}"' for number, label in enumerate(quoted))]
    write(folder, lines, **options)
    return {"label": "label"}


# Files


def separator_line(folder):
    labels_of(folder, ["owl", "yak"])
    write(folder, ["sep=;", "filename;label", "0.jpg;owl, barn", "1.jpg;yak"])
    return {"label": "label"}


def semicolons_and_commas(folder):
    """The header has as many commas as semicolons; only semicolons divide all rows alike."""
    labels_of(folder, ["owl", "yak"])
    write(folder, ["filename;label, as typed", "0.jpg;owl", "1.jpg;yak, white, old"])
    return {"label": "label, as typed"}


def workbook(folder):
    labels_of(folder, ["owl", "yak"])
    with zipfile.ZipFile(folder / "labels.csv", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
    return {"label": "label"}
