"""Privacy: folders, logins and passwords are removed from values, everything else is kept."""

import pytest

from lib.core import privacy


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("sqlite:////home/ann/trials.db", "sqlite:///trials.db"),
        ("sqlite:///trials.db", "sqlite:///trials.db"),
        (r"sqlite+pysqlite:///C:\Users\ann\trials.db?x=/home/ann", "sqlite+pysqlite:///trials.db"),
        ("postgresql://ann:s3cret@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://ann:s3@cret@host/db", "postgresql://host/db"),
        ("postgresql://ann:s3/c r@e?t@host/db?sslmode=require", "postgresql://host/db"),
        ("https://host/photos@2x.zip", "https://host/photos@2x.zip"),
        ("mysql+pymysql://host/db?user=ann&password=s3cret", "mysql+pymysql://host/db"),
        ("https://ann:s3cret@host/a.zip?token=s3cret", "https://host/a.zip"),
        ("https://drive.google.com/open?id=1ZXEh", "https://drive.google.com/open?id=1ZXEh"),
        ("C:/Users/ann/w.h5", "w.h5"),
    ],
)
def test_public(value, shown):
    assert privacy.public(value) == shown
    assert privacy.public({"a": [value, 1], "b": None}) == {"a": [shown, 1], "b": None}


@pytest.mark.parametrize(
    "value", ["masks/all", "owner/name", "CC BY 4.0, see https://host/a", "imagenet", 0.5, True]
)
def test_public_keeps_other_values(value):
    assert privacy.public(value) == value


def test_separate():
    values = {
        "seed": 1,
        "tune": {"storage": "mysql://a:b@c/d", "trials": 3},
        "model": {"weights": "/w.h5"},
        "clean": {},
    }
    shown, private = privacy.separate(values)
    assert shown == {"seed": 1, "tune": {"trials": 3}, "clean": {}}
    assert private == {"tune": {"storage": "mysql://a:b@c/d"}, "model": {"weights": "/w.h5"}}
