-- What own_sequences.tsv needs beside schema.sql.
USE route;
CREATE OR REPLACE VIEW v_writes AS SELECT id, f_write(id) AS a FROM t;
CREATE OR REPLACE VIEW v_state AS SELECT f_setvar(7) AS a;
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
DELIMITER ;
