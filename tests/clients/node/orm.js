'use strict';
// The checks with TypeORM, which stands on mysql2: what it adds to its driver.

const assert = require('node:assert/strict');
const { DataSource, EntitySchema } = require('typeorm');
const { login, Missing, report } = require('./common.js');

const Order = new EntitySchema({
  name: 'Order',
  tableName: 'orders',
  columns: {
    id: { type: Number, primary: true, generated: true },
    customer: { type: String, length: 100, unique: true },
    total: { type: 'decimal', precision: 20, scale: 4, nullable: true },
    placed: { type: 'datetime', precision: 6, nullable: true },
    notes: { type: 'json', nullable: true },
    proof: { type: 'longblob', nullable: true },
    version: { type: Number, version: true },
  },
  relations: { lines: { type: 'one-to-many', target: 'Line', inverseSide: 'order', cascade: true } },
});
const Line = new EntitySchema({
  name: 'Line',
  tableName: 'order_lines',
  columns: { id: { type: Number, primary: true, generated: true }, article: { type: String } },
  relations: { order: { type: 'many-to-one', target: 'Order', inverseSide: 'lines', onDelete: 'CASCADE' } },
});

const source = new DataSource({
  type: 'mysql',
  host: login.host,
  port: login.port,
  username: login.user,
  password: login.password,
  database: login.database,
  ssl: login.ssl,
  charset: 'utf8mb4',
  poolSize: 3,
  entities: [Order, Line],
});
const orders = () => source.getRepository(Order);
const none = (why) => async () => { throw new Missing(why); };

report({
  async connect() {
    await source.initialize();
    // Makes the tables, comparing them with information_schema first; the second time there is nothing to do.
    await source.synchronize();
    await source.synchronize();
  },

  async text() {
    const placed = new Date('2024-12-31T23:59:59.123Z');
    const saved = await orders().save({
      customer: 'Grüße 😀', total: '1234567890123456.0001', placed, notes: { a: [1, null, 'ü'] },
      proof: Buffer.from([0, 255, 39, 92]), lines: [{ article: 'a' }, { article: 'b' }],
    });
    const found = await orders().findOne({ where: { id: saved.id }, relations: { lines: true } });
    assert.deepEqual([found.customer, found.total, found.placed, found.notes], ['Grüße 😀', '1234567890123456.0001', placed, { a: [1, null, 'ü'] }]);
    assert.ok(found.proof.equals(Buffer.from([0, 255, 39, 92])));
    assert.deepEqual(found.lines.map((line) => line.article).sort(), ['a', 'b']);
    const empty = await orders().save({ customer: 'empty' });
    const again = await orders().findOneBy({ id: empty.id });
    assert.deepEqual([again.total, again.placed, again.notes, again.proof], [null, null, null, null]);
  },

  prepared: none('TypeORM sends texts'),

  async 'own-writes'() {
    const runner = source.createQueryRunner();
    const repository = runner.manager.getRepository(Order);
    for (let number = 0; number < 20; number++) {
      const order = await repository.save({ customer: `own ${number}` });
      assert.equal((await repository.findOneByOrFail({ id: order.id })).customer, `own ${number}`);
      order.total = String(number);
      const changed = await repository.save(order);
      assert.equal((await repository.findOneByOrFail({ id: order.id })).version, changed.version);
    }
    await runner.release();
  },

  async transaction() {
    await assert.rejects(source.transaction(async (manager) => {
      await manager.save(Order, { customer: 'undone' });
      assert.equal(await manager.countBy(Order, { customer: 'undone' }), 1);
      await manager.transaction((inner) => inner.save(Order, { customer: 'inner' }));
      throw new Error('roll back');
    }), /roll back/);
    await source.transaction('SERIALIZABLE', async (manager) => {
      assert.equal(await manager.countBy(Order, [{ customer: 'undone' }, { customer: 'inner' }]), 0);
      await manager.save(Order, { customer: 'kept' });
    });
    assert.equal(await orders().countBy({ customer: 'kept' }), 1);
  },

  blob: none("its driver's"),
  procedure: none("its driver's"),

  async batch() {
    const rows = Array.from({ length: 1000 }, (_, number) => ({ customer: `batch ${number}` }));
    const done = await orders().insert(rows);
    assert.equal(done.identifiers.length, 1000);
    const last = done.identifiers[999].id;
    const found = await source.transaction((manager) => manager.findOneByOrFail(Order, { id: last }));
    assert.equal(found.customer, 'batch 999');
  },

  'local-infile': none("its driver's"),

  async errors() {
    await assert.rejects(orders().insert({ customer: 'kept' }), (error) => error.errno === 1062 && error.driverError.sqlState === '23000');
    await assert.rejects(source.query('SELECT * FROM nothing'), (error) => error.errno === 1146);
  },

  cancel: none("its driver's"),
  reset: none("its driver's"),
});
