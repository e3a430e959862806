"""PyMySQL, mysqlclient and mysql-connector-python, which share the interface of PEP 249: `dbapi.py DRIVER`."""

import sys
import threading
import time

import common
from common import BLOB, COLUMNS, EXPECTED, Missing

DRIVER = sys.argv[1]
login = dict(host=common.HOST, port=common.PORT, user=common.USER, password=common.PASSWORD, database=common.SCHEMA)

if DRIVER == "pymysql":
    import pymysql as driver

    if common.TLS:
        login["ssl"] = {"check_hostname": False, "verify_mode": "none"}
    else:
        login["ssl_disabled"] = True
    login |= dict(local_infile=True, charset="utf8mb4", max_allowed_packet=64 << 20)
elif DRIVER == "mysqlclient":
    import MySQLdb as driver

    # (Made with MariaDB's C library, which has no ssl_mode.)
    login["ssl"] = {"cipher": "HIGH"} if common.TLS else None
    login |= dict(local_infile=1, charset="utf8mb4")
else:
    import mysql.connector as driver

    login |= dict(allow_local_infile=True, use_pure=True, ssl_disabled=not common.TLS)


def connect(**more):
    return driver.connect(**{key: value for key, value in (login | more).items() if value is not None})


def rows(session, sql, arguments=None, **options):
    cursor = session.cursor(**options)
    cursor.execute(sql, arguments) if arguments is not None else cursor.execute(sql)
    found = cursor.fetchall() if cursor.description else None
    cursor.close()
    return [tuple(row) for row in found] if found is not None else None


def prepared_options():
    if DRIVER != "mysql-connector-python":
        raise Missing("the driver prepares no statements")
    return dict(prepared=True)


def check_connect():
    session = connect()
    one = rows(session, "SELECT DATABASE(), @@character_set_client, @@character_set_connection, 'Grüße 😀'")
    assert one == [(common.SCHEMA, "utf8mb4", "utf8mb4", "Grüße 😀")], one
    session.ping()
    session.close()
    try:
        connect(password="wrong")
        raise AssertionError("logged in with a wrong password")
    except driver.Error as error:
        assert error.args[0] == 1045, error


def write_and_read_types(session, **options):
    rows(session, "DELETE FROM types")
    insert = f"INSERT INTO types VALUES ({', '.join(['%s'] * len(COLUMNS))})"
    for row in EXPECTED:
        values = [row[name] for name in COLUMNS]
        if options and row["flags"] is not None:
            values[COLUMNS.index("flags")] = int.from_bytes(row["flags"], "big")
            # Its prepared statements get the microseconds of negative times wrong, whatever the server.
            values[COLUMNS.index("span")] = "-12:34:56.123456" if row["id"] == 1 else "00:00:00"
        rows(session, insert, values, **options)
    session.commit()
    same = rows(session, "SELECT id FROM same ORDER BY id")
    assert same == [(1,), (2,), (3,)], same
    if not options:
        found = rows(session, "SELECT * FROM types WHERE id > %s ORDER BY id", (0,))
        common.compare([dict(zip(COLUMNS, row)) for row in found])
        return
    # Connector/Python's prepared statements cannot read all of it in one row, nor times and years, whatever the server.
    for name in COLUMNS:
        if name not in ("id", "span", "vintage"):
            found = rows(session, f"SELECT id, {name} FROM types WHERE id > %s ORDER BY id", (0,), **options)
            common.compare([dict(zip(("id", name), row)) for row in found])


def check_text():
    write_and_read_types(connect())


def check_prepared():
    options = prepared_options()
    session = connect()
    write_and_read_types(session, **options)
    cursor = session.cursor(**options)
    other = connect()
    for alter in ["ADD COLUMN more INT DEFAULT 5", "DROP COLUMN more"]:
        cursor.execute("SELECT * FROM notes WHERE id < %s", (0,))
        cursor.fetchall()
        # A transaction that has read the table holds up who alters it.
        session.commit()
        rows(other, f"ALTER TABLE notes {alter}")


def check_own_writes():
    session = connect(autocommit=True)
    rows(session, "DELETE FROM notes")
    for number in range(50):
        rows(session, "INSERT INTO notes (word) VALUES (%s)", (f"own {number}",))
        assert rows(session, "SELECT word FROM notes WHERE word = %s", (f"own {number}",)) == [(f"own {number}",)]
        assert rows(session, "SELECT COUNT(*) FROM notes") == [(number + 1,)]


def check_transaction():
    session = connect()
    rows(session, "DELETE FROM notes")
    session.commit()
    rows(session, "INSERT INTO notes (word) VALUES ('undone')")
    assert rows(session, "SELECT COUNT(*) FROM notes") == [(1,)]
    session.rollback()
    assert rows(session, "SELECT COUNT(*) FROM notes") == [(0,)]
    session.commit()
    rows(session, "INSERT INTO notes (word) VALUES ('kept')")
    rows(session, "SAVEPOINT here")
    rows(session, "INSERT INTO notes (word) VALUES ('undone')")
    rows(session, "ROLLBACK TO SAVEPOINT here")
    session.commit()
    assert rows(session, "SELECT word FROM notes") == [("kept",)]
    session.commit()
    rows(session, "START TRANSACTION READ ONLY")
    assert rows(session, "SELECT word FROM notes") == [("kept",)]
    expect(1792, "25006", lambda: rows(session, "DELETE FROM notes"))
    session.rollback()


def check_blob():
    session = connect()
    rows(session, "DELETE FROM blobs")
    ways = [{}] + ([prepared_options()] if DRIVER == "mysql-connector-python" else [])
    for number, options in enumerate(ways):
        rows(session, "INSERT INTO blobs VALUES (%s, %s)", (number, BLOB), **options)
        session.commit()
        # (Its prepared statements cannot read a row of more than one packet, whatever the server.)
        ((body,),) = rows(session, "SELECT body FROM blobs WHERE id = %s", (number,))
        assert body == BLOB
    rows(session, "DELETE FROM blobs")
    session.commit()


def check_procedure():
    session = connect()
    cursor = session.cursor()
    cursor.execute("SET @doubled = 0")
    if DRIVER == "mysql-connector-python":
        given = cursor.callproc("several", (7, 0))
        results = [[tuple(row) for row in result.fetchall()] for result in cursor.stored_results()]
        assert int(given[1]) == 14, given
    else:
        cursor.execute("CALL several(7, @doubled)")
        results = []
        while True:
            if cursor.description:
                results.append(list(cursor.fetchall()))
            if not cursor.nextset():
                break
        assert rows(session, "SELECT @doubled") == [(14,)]
    assert results == [[(7,), (8,)], [("second", None)]], results
    session.commit()
    assert rows(session, "SELECT COUNT(*) FROM notes WHERE word = 'called 7'") == [(1,)]


def check_batch():
    session = connect()
    rows(session, "DELETE FROM notes")
    cursor = session.cursor()
    cursor.executemany("INSERT INTO notes (word) VALUES (%s)", [(f"batch {number}",) for number in range(1000)])
    assert cursor.rowcount == 1000, cursor.rowcount
    session.commit()
    assert rows(session, "SELECT COUNT(*) FROM notes") == [(1000,)]
    cursor.execute("INSERT INTO notes (word) VALUES ('last')")
    ((last,),) = rows(session, "SELECT LAST_INSERT_ID()")
    assert last == cursor.lastrowid and rows(session, "SELECT id FROM notes WHERE word = 'last'") == [(last,)]
    session.commit()


def check_local_infile():
    session = connect()
    rows(session, "DELETE FROM notes")
    cursor = session.cursor()
    cursor.execute(f"LOAD DATA LOCAL INFILE '{common.ROWS}' INTO TABLE notes (word)")
    assert cursor.rowcount == 1000, cursor.rowcount
    session.commit()
    assert rows(session, "SELECT COUNT(*) FROM notes") == [(1000,)]


def expect(code, state, action):
    try:
        action()
    except driver.Error as error:
        assert error.args[0] == code, error
        assert getattr(error, "sqlstate", state) == state, error
    else:
        raise AssertionError(f"no error {code}")


def check_errors():
    session = connect()
    rows(session, "DELETE FROM notes")
    rows(session, "INSERT INTO notes (word) VALUES ('one')")
    session.commit()
    for options in [{}] + ([prepared_options()] if DRIVER == "mysql-connector-python" else []):
        for code, state, sql in [
            (1062, "23000", "INSERT INTO notes (word) VALUES ('one')"),
            (1146, "42S02", "SELECT * FROM nothing"),
            (1064, "42000", "SELEKT 1"),
        ]:
            expect(code, state, lambda: rows(session, sql, **options))
            session.rollback()
            assert rows(session, "SELECT word FROM notes") == [("one",)]


def check_cancel():
    session, other = connect(), connect()
    thread = session.thread_id() if callable(getattr(session, "thread_id", None)) else session.connection_id
    for kill in ["KILL QUERY", "KILL"]:
        caught = []

        def sleep():
            try:
                # A SLEEP() that is ended alone in a SELECT gives a row; here it must be an error.
                caught.append(rows(session, "SELECT SLEEP(60) FROM types WHERE id = 1"))
            except driver.Error as error:
                caught.append(error.args[0])

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        deadline = time.monotonic() + 120
        while sleeper.is_alive():
            assert time.monotonic() < deadline, "it still sleeps"
            time.sleep(0.1)
            try:
                rows(other, f"{kill} {thread}")
            except driver.Error as error:
                # Gone before this second attempt.
                assert kill == "KILL" and error.args[0] == 1094, error
        sleeper.join()
        if kill == "KILL QUERY":
            # As a plain server: SLEEP() says 1 or the statement fails with 1317.
            assert caught in ([1317], [[(1,)]]), caught
            session.rollback()
            assert rows(session, "SELECT 1") == [(1,)]
        else:
            assert caught[0] in (1317, 2006, 2013, 2026, 2055), caught


def check_reset():
    if DRIVER == "mysql-connector-python":
        from mysql.connector import pooling

        options = {key: value for key, value in login.items() if value is not None}
        pool = pooling.MySQLConnectionPool(pool_name=DRIVER, pool_size=1, **options)
        session = pool.get_connection()
    elif DRIVER == "mysqlclient":
        session = connect()
    else:
        raise Missing("the driver has no pool, and no other reset")
    for sql in ["SET @mine = 5", "SET sql_mode = ''", "CREATE TEMPORARY TABLE mine (id INT)"]:
        rows(session, sql)
    if DRIVER == "mysql-connector-python":
        session.close()
        session = pool.get_connection()
    else:
        session.change_user(common.USER, common.PASSWORD, common.SCHEMA)
    ((mine, mode),) = rows(session, "SELECT @mine, @@sql_mode")
    assert mine is None and mode, (mine, mode)
    expect(1146, "42S02", lambda: rows(session, "SELECT * FROM mine"))
    session.close()


common.report({
    "connect": check_connect,
    "text": check_text,
    "prepared": check_prepared,
    "own-writes": check_own_writes,
    "transaction": check_transaction,
    "blob": check_blob,
    "procedure": check_procedure,
    "batch": check_batch,
    "local-infile": check_local_infile,
    "errors": check_errors,
    "cancel": check_cancel,
    "reset": check_reset,
})
