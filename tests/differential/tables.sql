SET lock_wait_timeout = 300;
ALTER DATABASE {schema} COLLATE utf8mb4_0900_ai_ci;
DROP TABLE IF EXISTS {schema}.t0, {schema}.t1, {schema}.log, {schema}.m0, {schema}.m1, {schema}.x0, {schema}.x1, {schema}.x2, {schema}.x3, {schema}.x4;
DROP VIEW IF EXISTS {schema}.w0, {schema}.w1, {schema}.w2, {schema}.w3, {schema}.w4;
DROP FUNCTION IF EXISTS {schema}.g0;
DROP FUNCTION IF EXISTS {schema}.g1;
DROP FUNCTION IF EXISTS {schema}.g2;
DROP FUNCTION IF EXISTS {schema}.g3;
DROP FUNCTION IF EXISTS {schema}.g4;
CREATE TABLE {schema}.t0 (id INT AUTO_INCREMENT PRIMARY KEY, a INT, b VARCHAR(20) DEFAULT 'none');
CREATE TABLE {schema}.t1 (id INT AUTO_INCREMENT PRIMARY KEY, a TINYINT NOT NULL, b VARCHAR(20) CHARACTER SET latin1) AUTO_INCREMENT = 100;
CREATE TABLE {schema}.log (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(40));
INSERT INTO {schema}.t0 (a, b) VALUES (1, 'one'), (2, NULL), (3, 'x3'), (4, '');
INSERT INTO {schema}.t1 (a, b) VALUES (1, 'eins'), (2, '2');
CREATE TRIGGER {schema}.on_t1 AFTER UPDATE ON {schema}.t1 FOR EACH ROW SET @a = NEW.a
