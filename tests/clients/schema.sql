-- What every client program works on, in a schema of its own.

CREATE TABLE types (
  id INT PRIMARY KEY,
  tiny TINYINT, small SMALLINT UNSIGNED, big BIGINT, huge BIGINT UNSIGNED,
  wide DOUBLE, narrow FLOAT, exact DECIMAL(38,10), flags BIT(10),
  day DATE, moment DATETIME(6), span TIME(6), vintage YEAR,
  word VARCHAR(100), bytes VARBINARY(100), document JSON, choice ENUM('a','b'), several SET('x','y','z')
);

-- The rows that a program has to write by its driver's own types, and to read again.
CREATE TABLE expected LIKE types;
INSERT INTO expected VALUES
  (1, -128, 65535, -9223372036854775808, 18446744073709551615, -1.5e300, 0.5, 12345678901234567890123456.0123456789, b'1000000001',
   '2024-02-29', '2024-12-31 23:59:59.123456', '-12:34:56.123456', 2155,
   'Grüße 😀 ''"\\%', x'00FF275C220A1A', '{"a": [1, null, "ü"], "b": 1.5}', 'b', 'x,z'),
  (2, 0, 0, 0, 0, 0, -0.25, -0.0000000001, b'0',
   '1000-01-01', '1000-01-01 00:00:00.000000', '00:00:00', 1901,
   '', x'', '[]', 'a', ''),
  (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

-- Counts the rows that are as they were to be; a program asks for it before it empties `types`.
CREATE VIEW same AS SELECT e.id FROM expected e JOIN types t ON e.id = t.id
  AND e.tiny <=> t.tiny AND e.small <=> t.small AND e.big <=> t.big AND e.huge <=> t.huge
  AND e.wide <=> t.wide AND e.narrow <=> t.narrow AND e.exact <=> t.exact AND e.flags <=> t.flags
  AND e.day <=> t.day AND e.moment <=> t.moment AND e.span <=> t.span AND e.vintage <=> t.vintage
  AND BINARY e.word <=> BINARY t.word AND e.bytes <=> t.bytes AND e.document <=> t.document
  AND e.choice <=> t.choice AND e.several <=> t.several;

CREATE TABLE notes (id INT AUTO_INCREMENT PRIMARY KEY, word VARCHAR(100) UNIQUE);
CREATE TABLE blobs (id INT PRIMARY KEY, body LONGBLOB);

DELIMITER //
CREATE PROCEDURE several(IN n INT, OUT doubled INT)
BEGIN
  SET doubled = n * 2;
  SELECT n AS first UNION ALL SELECT n + 1;
  SELECT 'second' AS word, NULL AS nothing;
  INSERT INTO notes (word) VALUES (CONCAT('called ', n));
END//
DELIMITER ;
