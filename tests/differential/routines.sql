CREATE VIEW {schema}.v AS SELECT id, a + 1 AS n FROM {schema}.t0;
CREATE FUNCTION {schema}.f_pure(n INT) RETURNS INT DETERMINISTIC NO SQL RETURN n + 1;
CREATE FUNCTION {schema}.f_reads() RETURNS INT READS SQL DATA RETURN (SELECT COUNT(*) FROM {schema}.t0);
CREATE FUNCTION {schema}.f_writes(n INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO {schema}.log (what) VALUES (n); RETURN n; END;
CREATE FUNCTION {schema}.f_sets(n INT) RETURNS INT NO SQL BEGIN SET @a = n; RETURN n; END;
CREATE FUNCTION {schema}.f_liar(n INT) RETURNS INT READS SQL DATA BEGIN INSERT INTO {schema}.log (what) VALUES (n); RETURN n; END;
CREATE VIEW {schema}.v_sets AS SELECT id, {schema}.f_sets(a) AS n FROM {schema}.t0;
CREATE VIEW {schema}.v_writes AS SELECT id, {schema}.f_writes(a) AS n FROM {schema}.t0;
CREATE PROCEDURE {schema}.p_rows(n INT) BEGIN SELECT id, a FROM {schema}.t0 WHERE id <= n ORDER BY id; SELECT n; END;
CREATE PROCEDURE {schema}.p_out(OUT n INT) BEGIN SELECT COUNT(*) INTO n FROM {schema}.t0; END;
CREATE PROCEDURE {schema}.p_insert(n INT) BEGIN INSERT INTO {schema}.t0 (a) VALUES (n); END;
CREATE PROCEDURE {schema}.p_state() BEGIN SET @b = 'from p_state'; END;
CREATE PROCEDURE {schema}.p_settings() BEGIN SET SESSION time_zone = '+03:00'; SET SESSION group_concat_max_len = 2000; END;
CREATE PROCEDURE {schema}.p_temporary() BEGIN CREATE TEMPORARY TABLE IF NOT EXISTS {schema}.m1 (id INT AUTO_INCREMENT PRIMARY KEY, a INT); END;
CREATE PROCEDURE {schema}.p_begin() BEGIN START TRANSACTION; INSERT INTO {schema}.log (what) VALUES ('begun'); END;
CREATE PROCEDURE {schema}.p_lock() BEGIN DO GET_LOCK('l0', 0); END;
CREATE PROCEDURE {schema}.p_warns() BEGIN SIGNAL SQLSTATE '01000' SET MESSAGE_TEXT = 'a warning', MYSQL_ERRNO = 1234; END;
CREATE PROCEDURE {schema}.p_fails() BEGIN INSERT INTO {schema}.t0 (a) VALUES (9); SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'an error'; END;
CREATE PROCEDURE {schema}.p_handles() BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION SET @c = 'handled'; INSERT INTO {schema}.t0 (id) VALUES (1); END
