-- What own_sequences.tsv needs beside schema.sql.
USE route;
-- Too long to be looked into.
SET @v_unseen = CONCAT("CREATE OR REPLACE VIEW v_unseen AS SELECT id, f_write(id) AS a FROM t WHERE '", REPEAT('x', 70000), "' <> ''");
PREPARE v_unseen FROM @v_unseen;
EXECUTE v_unseen;
DEALLOCATE PREPARE v_unseen;
CREATE OR REPLACE VIEW v_state AS SELECT f_setvar(7) AS a;
CREATE OR REPLACE VIEW v_lock AS SELECT GET_LOCK('v_lock', 0) AS a;
CREATE OR REPLACE VIEW v_over_lock AS SELECT a + 1 AS a FROM v_lock;
CREATE OR REPLACE VIEW v_reads AS SELECT f_read(1) AS a;
CREATE OR REPLACE VIEW v_threads AS SELECT THREAD_ID AS a FROM performance_schema.threads LIMIT 1;
CREATE OR REPLACE VIEW v_insert_id AS SELECT LAST_INSERT_ID() AS a;
DROP PROCEDURE IF EXISTS p_begin;
CREATE PROCEDURE p_begin() START TRANSACTION;
CREATE DATABASE IF NOT EXISTS route2;
CREATE TABLE IF NOT EXISTS route2.only2 (x INT);
INSERT INTO route2.only2 VALUES (2);
DROP PROCEDURE IF EXISTS p_dynamic;
DELIMITER //
CREATE PROCEDURE p_dynamic(unseen VARCHAR(100))
BEGIN
  SET @unseen = unseen;
  PREPARE s FROM @unseen;
  EXECUTE s;
  DEALLOCATE PREPARE s;
  SET @unseen = NULL;
END //
DROP FUNCTION IF EXISTS route2.f_elsewhere //
CREATE FUNCTION route2.f_elsewhere() RETURNS INT READS SQL DATA RETURN (SELECT COUNT(*) FROM route2.only2) //
DROP PROCEDURE IF EXISTS route2.p_elsewhere //
CREATE PROCEDURE route2.p_elsewhere() UPDATE route2.only2 SET x = x //
DROP PROCEDURE IF EXISTS route2.p_elsewhere_sets //
CREATE PROCEDURE route2.p_elsewhere_sets() SET @elsewhere = 1 //
DELIMITER ;
CREATE OR REPLACE VIEW v_elsewhere AS SELECT route2.f_elsewhere() AS a;
