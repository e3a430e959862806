"""What the Python programs share: the address they are given, the rows of `expected`, and the report of checks."""

import datetime
import decimal
import json
import os
import sys
import traceback

HOST = os.environ["CLIENT_HOST"]
PORT = int(os.environ["CLIENT_PORT"])
USER = os.environ["CLIENT_USER"]
PASSWORD = os.environ["CLIENT_PASSWORD"]
SCHEMA = os.environ["CLIENT_SCHEMA"]
TLS = os.environ["CLIENT_TLS"] == "on"
ROWS = os.environ["CLIENT_ROWS"]

COLUMNS = (
    "id tiny small big huge wide narrow exact flags day moment span vintage word bytes document choice several".split()
)
BLOB = bytes(range(256)) * (17 * 4096)

EXPECTED = [
    dict(
        id=1, tiny=-128, small=65535, big=-(2**63), huge=2**64 - 1, wide=-1.5e300, narrow=0.5,
        exact=decimal.Decimal("12345678901234567890123456.0123456789"), flags=b"\x02\x01",
        day=datetime.date(2024, 2, 29), moment=datetime.datetime(2024, 12, 31, 23, 59, 59, 123456),
        span=-datetime.timedelta(hours=12, minutes=34, seconds=56, microseconds=123456), vintage=2155,
        word="Grüße 😀 '\"\\%", bytes=b"\x00\xff'\\\"\n\x1a", document=json.dumps({"a": [1, None, "ü"], "b": 1.5}),
        choice="b", several="x,z",
    ),
    dict(
        id=2, tiny=0, small=0, big=0, huge=0, wide=0.0, narrow=-0.25, exact=decimal.Decimal("-0.0000000001"),
        flags=b"\x00\x00", day=datetime.date(1000, 1, 1), moment=datetime.datetime(1000, 1, 1),
        span=datetime.timedelta(), vintage=1901, word="", bytes=b"", document="[]", choice="a", several="",
    ),
    dict.fromkeys(COLUMNS) | {"id": 3},
]


def plain(name, value):
    """Drivers differ in the type that they give for some columns; what it says must not differ."""
    if value is None:
        return None
    if name == "document":
        return json.loads(value) if isinstance(value, (str, bytes, bytearray)) else value
    if name == "flags":
        return value if isinstance(value, int) else int.from_bytes(value, "big")
    if name == "several":
        if isinstance(value, (set, frozenset)):
            return ",".join(sorted(value))
    if name == "bytes":
        return bytes(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    return value


def compare(rows):
    """Rows of `types`, as dicts, ordered by id."""
    assert len(rows) == 3, rows
    for row, expected in zip(rows, EXPECTED):
        for name in row:
            found, wanted = plain(name, row[name]), plain(name, expected[name])
            assert found == wanted, f"row {row['id']}, {name}: {found!r}, not {wanted!r}"


class Missing(Exception):
    """The driver has no such thing; says what it lacks."""


def report(checks):
    """Runs functions by the name of their check, and prints what became of each."""
    failed = False
    for name, check in checks.items():
        try:
            check()
            print("ok", name, flush=True)
        except Missing as why:
            print("none", name, why, flush=True)
        except Exception:
            failed = True
            traceback.print_exc()
            print("FAILED", name, flush=True)
    sys.exit(failed)
