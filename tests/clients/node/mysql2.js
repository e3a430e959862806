'use strict';
// The checks with mysql2, by promises: `query` is its text protocol, `execute` prepares.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const mysql = require('mysql2/promise');
const { login, columns, expected, compare, BLOB, ROWS, Missing, report } = require('./common.js');

const options = {
  ...login,
  supportBigNumbers: true,
  bigNumberStrings: true,
  dateStrings: true,
  infileStreamFactory: (path) => fs.createReadStream(path),
};
const connect = (more = {}) => mysql.createConnection({ ...options, ...more });
const one = async (session, sql, values) => Object.values((await session.query(sql, values))[0][0])[0];

const rejects = async (work, errno, sqlState) => {
  await assert.rejects(work, (error) => {
    assert.deepEqual([error.errno, error.sqlState], [errno, sqlState], error.message);
    return true;
  });
};

async function types(session, way) {
  await session.query('DELETE FROM types');
  for (const row of expected) {
    const values = columns.map((name) => row[name]);
    const at = columns.indexOf('document');
    if (values[at] !== null) values[at] = JSON.stringify(values[at]);
    await session[way](`INSERT INTO types VALUES (${columns.map(() => '?').join(', ')})`, values);
  }
  const [same] = await session.query('SELECT id FROM same ORDER BY id');
  assert.deepEqual(same.map((row) => row.id), [1, 2, 3]);
  const [rows] = await session[way]('SELECT * FROM types WHERE id > ? ORDER BY id', [0]);
  compare(rows);
}

report({
  async connect() {
    const session = await connect();
    const [[row]] = await session.query("SELECT DATABASE() d, @@character_set_client c, 'Grüße 😀' w");
    assert.deepEqual({ ...row }, { d: login.database, c: 'utf8mb4', w: 'Grüße 😀' });
    await session.ping();
    await session.end();
    await rejects(connect({ password: 'wrong' }), 1045, '28000');
  },

  async text() {
    const session = await connect();
    await types(session, 'query');
    await session.end();
  },

  async prepared() {
    const session = await connect();
    const other = await connect();
    await types(session, 'execute');
    const statement = await session.prepare('SELECT * FROM notes WHERE id < ?');
    await statement.execute([0]);
    await other.query('ALTER TABLE notes ADD COLUMN more INT DEFAULT 5');
    await session.query('DO 1');
    await statement.execute([0]);
    await other.query('ALTER TABLE notes DROP COLUMN more');
    await statement.close();
    await session.end();
    await other.end();
  },

  async 'own-writes'() {
    const session = await connect();
    await session.query('DELETE FROM notes');
    for (let number = 0; number < 50; number++) {
      const way = number % 2 ? 'query' : 'execute';
      await session[way]('INSERT INTO notes (word) VALUES (?)', [`own ${number}`]);
      const [found] = await session[way]('SELECT word FROM notes WHERE word = ?', [`own ${number}`]);
      assert.equal(found.length, 1);
      assert.equal(Number(await one(session, 'SELECT COUNT(*) FROM notes')), number + 1);
    }
    await session.end();
  },

  async transaction() {
    const session = await connect();
    const count = async () => Number(await one(session, 'SELECT COUNT(*) FROM notes'));
    await session.query('DELETE FROM notes');
    await session.beginTransaction();
    await session.query("INSERT INTO notes (word) VALUES ('undone')");
    assert.equal(await count(), 1);
    await session.rollback();
    assert.equal(await count(), 0);
    await session.beginTransaction();
    await session.execute("INSERT INTO notes (word) VALUES ('kept')");
    await session.query('SAVEPOINT here');
    await session.execute("INSERT INTO notes (word) VALUES ('undone')");
    await session.query('ROLLBACK TO SAVEPOINT here');
    await session.commit();
    assert.equal(await one(session, 'SELECT GROUP_CONCAT(word) FROM notes'), 'kept');
    await session.query('START TRANSACTION READ ONLY');
    assert.equal(await count(), 1);
    await rejects(session.query('DELETE FROM notes'), 1792, '25006');
    await session.rollback();
    await session.end();
  },

  async blob() {
    const session = await connect();
    for (const way of ['query', 'execute']) {
      await session.query('DELETE FROM blobs');
      await session[way]('INSERT INTO blobs VALUES (?, ?)', [1, BLOB]);
      const [[row]] = await session[way]('SELECT body FROM blobs WHERE id = ?', [1]);
      assert.ok(BLOB.equals(row.body), way);
    }
    await session.query('DELETE FROM blobs');
    await session.end();
  },

  async procedure() {
    const session = await connect();
    const values = (results) => results.slice(0, 2).map((rows) => rows.map((row) => Object.values(row).map(String)));
    const [results] = await session.query('CALL several(7, @doubled)');
    assert.deepEqual(values(results), [[['7'], ['8']], [['second', 'null']]]);
    assert.equal(results[2].affectedRows, 1);
    assert.equal(Number(await one(session, 'SELECT @doubled')), 14);
    await session.query('DELETE FROM notes');
    const [again] = await session.execute('CALL several(?, @doubled)', [8]);
    assert.deepEqual(values(again), [[['8'], ['9']], [['second', 'null']]]);
    await session.end();
  },

  async batch() {
    const session = await connect();
    await session.query('DELETE FROM notes');
    const rows = Array.from({ length: 1000 }, (_, number) => [`batch ${number}`]);
    const [done] = await session.query('INSERT INTO notes (word) VALUES ?', [rows]);
    assert.equal(done.affectedRows, 1000);
    assert.equal(Number(await one(session, 'SELECT LAST_INSERT_ID()')), done.insertId);
    assert.equal(await one(session, 'SELECT word FROM notes WHERE id = ?', [done.insertId]), 'batch 0');
    await session.end();
  },

  async 'local-infile'() {
    const session = await connect();
    await session.query('DELETE FROM notes');
    const [done] = await session.query('LOAD DATA LOCAL INFILE ? INTO TABLE notes (word)', [ROWS]);
    assert.equal(done.affectedRows, 1000);
    assert.equal(Number(await one(session, 'SELECT COUNT(*) FROM notes')), 1000);
    await session.end();
  },

  async errors() {
    const session = await connect();
    await session.query('DELETE FROM notes');
    await session.query("INSERT INTO notes (word) VALUES ('one')");
    for (const way of ['query', 'execute']) {
      await rejects(session[way]("INSERT INTO notes (word) VALUES ('one')"), 1062, '23000');
      await rejects(session[way]('SELECT * FROM nothing'), 1146, '42S02');
      await rejects(session[way]('SELEKT 1'), 1064, '42000');
      assert.equal(await one(session, 'SELECT word FROM notes'), 'one');
    }
    await session.end();
  },

  async cancel() {
    const session = await connect();
    const other = await connect();
    await session.query('DELETE FROM notes');
    session.on('error', () => {});
    for (const kill of ['KILL QUERY', 'KILL']) {
      const sleeping = session.query('SELECT SLEEP(60)').then(([[row]]) => Object.values(row)[0], (error) => error);
      let over = false;
      sleeping.finally(() => { over = true; });
      for (let round = 0; !over && round < 1000; round++) {
        await new Promise((next) => setTimeout(next, 100));
        if (!over) await other.query(`${kill} ${session.threadId}`).catch((error) => assert.equal(error.errno, 1094));
      }
      const ended = await sleeping;
      if (kill === 'KILL QUERY') {
        // A plain server says the same: SLEEP() gives 1, or the statement fails with 1317.
        assert.ok(Number(ended) === 1 || ended.errno === 1317, String(ended));
        assert.equal(Number(await one(session, 'SELECT 5')), 5);
      } else {
        await assert.rejects(session.query('SELECT 5'));
      }
    }
    await other.end();
  },

  async reset() {
    const pool = mysql.createPool({ ...options, connectionLimit: 1, resetOnRelease: true });
    let session = await pool.getConnection();
    for (const sql of ['SET @mine = 5', "SET sql_mode = ''", 'CREATE TEMPORARY TABLE mine (id INT)']) {
      await session.query(sql);
    }
    // Its pool only resets when it is asked to; this is what asks.
    await session.changeUser({ user: login.user, password: login.password, database: login.database });
    session.release();
    session = await pool.getConnection();
    const [[row]] = await session.query('SELECT @mine mine, @@sql_mode mode');
    assert.equal(row.mine, null);
    assert.notEqual(row.mode, '');
    await rejects(session.query('SELECT * FROM mine'), 1146, '42S02');
    session.release();
    await pool.end();
  },
});
