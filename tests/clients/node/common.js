'use strict';
// What the Node programs share: the address they are given, the rows of `expected`, and the report of checks.

const assert = require('node:assert/strict');

const { CLIENT_HOST, CLIENT_PORT, CLIENT_USER, CLIENT_PASSWORD, CLIENT_SCHEMA, CLIENT_TLS, CLIENT_ROWS } = process.env;

const login = {
  host: CLIENT_HOST,
  port: Number(CLIENT_PORT),
  user: CLIENT_USER,
  password: CLIENT_PASSWORD,
  database: CLIENT_SCHEMA,
  ssl: CLIENT_TLS === 'on' ? { rejectUnauthorized: false } : undefined,
};

const columns =
  'id tiny small big huge wide narrow exact flags day moment span vintage word bytes document choice several'.split(' ');

// As strings where numbers of JavaScript are too small.
const expected = [
  [1, -128, 65535, '-9223372036854775808', '18446744073709551615', -1.5e300, 0.5, '12345678901234567890123456.0123456789',
    Buffer.from([2, 1]), '2024-02-29', '2024-12-31 23:59:59.123456', '-12:34:56.123456', 2155, 'Grüße 😀 \'"\\%',
    Buffer.from([0, 0xff, 0x27, 0x5c, 0x22, 0x0a, 0x1a]), { a: [1, null, 'ü'], b: 1.5 }, 'b', 'x,z'],
  [2, 0, 0, '0', '0', 0, -0.25, '-0.0000000001', Buffer.from([0, 0]), '1000-01-01', '1000-01-01 00:00:00.000000',
    '00:00:00.000000', 1901, '', Buffer.alloc(0), [], 'a', ''],
  [3, ...Array(17).fill(null)],
].map((values) => Object.fromEntries(columns.map((name, at) => [name, values[at]])));

const blob = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
const BLOB = Buffer.alloc(17 << 20, blob);

function compare(rows) {
  assert.equal(rows.length, 3);
  rows.forEach((row, at) => {
    for (const name of columns) {
      const wanted = expected[at][name];
      // (In prepared statements a fraction of zero is left out.)
      const whole = ['span', 'moment'].includes(name) && /:\d\d$/.test(row[name]);
      const found = whole ? `${row[name]}.000000` : row[name];
      const same = ['big', 'huge'].includes(name) && found !== null ? String(found) : found;
      assert.deepEqual(same, wanted, `row ${row.id}, ${name}`);
    }
  });
}

class Missing extends Error {}

async function report(checks) {
  let failed = false;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log('ok', name);
    } catch (error) {
      if (error instanceof Missing) {
        console.log('none', name, error.message);
      } else {
        failed = true;
        console.error(error);
        console.log('FAILED', name);
      }
    }
  }
  process.exit(failed ? 1 : 0);
}

module.exports = { login, columns, expected, compare, BLOB, ROWS: CLIENT_ROWS, Missing, report };
